//! Which posts go into the next transaction?
//!
//! Two transactions may run at once, so that one writes while the other's commit waits for the disk, but never
//! two with the same destination: the second would find it locked. Posts that meet a destination under way are
//! parked, and what comes later for any of theirs parks behind them, so that each destination's posts keep
//! their order and a large batch is not passed over for ever.

use std::collections::{HashSet, VecDeque};

use super::Post;

/// One transaction takes at most so many messages, and so many bytes (or one request, if that is more).
const MAX_ITEMS: usize = 1_000;
const MAX_BYTES: usize = 2 << 20;

#[derive(Default)]
pub(super) struct Line {
    ready: VecDeque<Post>,
    parked: Vec<Post>,
    /// Destinations of transactions under way.
    busy: HashSet<i64>,
    /// Destinations of parked posts.
    reserved: HashSet<i64>,
}

impl Line {
    pub fn push(&mut self, post: Post) {
        // Its client was told 503, or hung up. Not to be written, lest a database that comes back first gets
        // all that was posted in vain.
        if post.answer.is_closed() {
            return;
        }
        if post.destinations().any(|id| self.busy.contains(&id) || self.reserved.contains(&id)) {
            self.reserved.extend(post.destinations());
            self.parked.push(post);
        } else {
            self.ready.push_back(post);
        }
    }

    /// Posts that could be written now.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    pub fn len(&self) -> usize {
        self.ready.len() + self.parked.len()
    }

    /// The next transaction's; none: nothing is ready. [`Line::done`] ends what this begins.
    pub fn take(&mut self) -> Vec<Post> {
        let mut posts = Vec::with_capacity(self.ready.len());
        let (mut items, mut bytes) = (0, 0);
        while let Some(post) = self.ready.pop_front() {
            if post.answer.is_closed() {
                continue;
            }
            items += post.messages.len();
            bytes += post.bytes();
            if !posts.is_empty() && (items > MAX_ITEMS || bytes > MAX_BYTES) {
                self.ready.push_front(post);
                break;
            }
            posts.push(post);
        }
        self.busy.extend(posts.iter().flat_map(Post::destinations));
        // What did not fit may have met one of those.
        for post in std::mem::take(&mut self.ready) {
            self.push(post);
        }
        posts
    }

    /// A transaction with these destinations has ended.
    pub fn done(&mut self, destinations: &[i64]) {
        for id in destinations {
            self.busy.remove(id);
        }
        self.reserved.clear();
        for post in std::mem::take(&mut self.parked) {
            self.push(post);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::Answer;
    use super::*;
    use crate::domain::{DestinationId, Headers, NewMessage};

    fn post(destinations: &[i64]) -> (Post, oneshot::Receiver<Answer>) {
        let message = |id: &i64| NewMessage {
            destination: DestinationId(*id),
            payload: bytes::Bytes::from_static(b"1"),
            content_type: "text/plain".to_owned(),
            headers: Headers::default(),
            ttl_seconds: 60,
        };
        Post::new(None, None, destinations.iter().map(message).collect())
    }

    fn destinations(posts: &[Post]) -> Vec<i64> {
        posts.iter().flat_map(Post::destinations).collect()
    }

    #[test]
    fn no_destination_is_in_two_transactions() {
        let mut line = Line::default();
        let (posts, _answers): (Vec<_>, Vec<_>) = [&[1][..], &[2, 3], &[1]].into_iter().map(post).unzip();
        posts.into_iter().for_each(|post| line.push(post));
        let first = destinations(&line.take());
        assert_eq!(first, [1, 2, 3, 1]);
        let (posts, _answers): (Vec<_>, Vec<_>) = [&[3, 4][..], &[5], &[4]].into_iter().map(post).unzip();
        posts.into_iter().for_each(|post| line.push(post));
        // 4 is free, but behind the post that waits for 3.
        let second = destinations(&line.take());
        assert_eq!(second, [5]);
        line.done(&second);
        assert!(line.take().is_empty());
        line.done(&first);
        assert_eq!(destinations(&line.take()), [3, 4, 4]);
    }

    #[test]
    fn what_does_not_fit_waits_for_what_it_meets() {
        let mut line = Line::default();
        let (posts, _answers): (Vec<_>, Vec<_>) =
            [vec![7; 900], vec![7; 900], vec![8; 50]].iter().map(|ids| post(ids)).unzip();
        posts.into_iter().for_each(|post| line.push(post));
        assert_eq!(line.take().len(), 1);
        assert_eq!((line.ready(), line.len()), (1, 2));
        assert_eq!(destinations(&line.take()), vec![8; 50]);
        line.done(&[7]);
        assert_eq!(destinations(&line.take()), vec![7; 900]);
    }

    #[test]
    fn a_post_that_nobody_waits_for_is_not_written() {
        let mut line = Line::default();
        let (first, answer) = post(&[1]);
        line.push(first);
        drop(answer);
        assert!(line.take().is_empty());
        assert_eq!(line.len(), 0);
    }
}
