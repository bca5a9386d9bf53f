//! How long did most take, and how long the slowest?

use serde::{Deserialize, Serialize};

/// Values in microseconds, in 64 steps for each power of two: each is known to 1.6%.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Histogram {
    counts: Vec<u64>,
}

const STEPS: u32 = 6;

impl Histogram {
    pub fn record(&mut self, micros: u64) {
        let bucket = bucket(micros);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
    }

    pub fn merge(&mut self, other: &Histogram) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, more)| *own += more);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// In milliseconds: the value that this share (0 to 1) does not exceed; none without values.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let total = self.count();
        let wanted = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        self.counts.iter().enumerate().find_map(|(bucket, count)| {
            seen += count;
            (seen >= wanted).then(|| highest(bucket) as f64 / 1_000.0)
        })
    }
}

fn bucket(value: u64) -> usize {
    let exponent = (64 - value.leading_zeros()).saturating_sub(STEPS + 1);
    let mantissa = value >> exponent;
    ((u64::from(exponent) << STEPS) + mantissa) as usize
}

fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let exponent = (bucket >> STEPS).saturating_sub(1);
    let mantissa = bucket - (exponent << STEPS);
    ((mantissa + 1) << exponent) - 1
}
