//! How are numbers, times and strangers' texts told to people?

/// `4, 7, 9 and 12 more`
pub(super) fn name_some(first: &[i64], count: i64) -> String {
    let names: Vec<String> = first.iter().map(i64::to_string).collect();
    match count - i64::try_from(first.len()).unwrap_or(i64::MAX) {
        ..=0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// `1 queue`, `2 queues`
pub(super) fn several(count: i64, name: &str) -> String {
    if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") }
}

/// `45 s`, `12 min`, `3.5 h`
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else if seconds < 7_200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3_600.0)
    }
}

/// Without what would break a line or steer the terminal; receivers and clients wrote it.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_named_and_the_rest_counted() {
        assert_eq!(name_some(&[4, 7], 2), "4, 7");
        assert_eq!(name_some(&[4, 7], 14), "4, 7 and 12 more");
        assert_eq!(several(1, "queue"), "1 queue");
        assert_eq!([duration(45.0), duration(720.0), duration(12_600.0)], ["45 s", "12 min", "3.5 h"]);
    }
}
