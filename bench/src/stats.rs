//! Medians.

use serde::{Deserialize, Deserializer, Serialize};

/// A median with its range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    #[serde(deserialize_with = "or_nan")]
    pub median: f64,
    /// The smallest value.
    #[serde(deserialize_with = "or_nan")]
    pub min: f64,
    /// The largest value.
    #[serde(deserialize_with = "or_nan")]
    pub max: f64,
}

/// JSON has no NaN: it is written as null.
fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Spread {
    /// Of these values.
    pub fn of(mut values: Vec<f64>) -> Self {
        let median = median(&mut values);
        let or_nan = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Self { median, min: or_nan(values.first()), max: or_nan(values.last()) }
    }

    /// All three multiplied.
    pub fn scaled(self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }

    /// `dividend` by the values: rates of durations, and the other way round.
    pub fn reciprocal(self, dividend: f64) -> Self {
        Self { median: dividend / self.median, min: dividend / self.max, max: dividend / self.min }
    }

    /// Median, smallest and largest with so many digits behind the point.
    pub fn text(self, digits: usize) -> String {
        format!("{:.digits$} [{:.digits$}-{:.digits$}]", self.median, self.min, self.max)
    }
}

/// The median of the values, which are sorted; NaN of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_range() {
        assert_eq!(Spread::of(vec![3.0, -1.0, 2.0]), Spread { median: 2.0, min: -1.0, max: 3.0 });
        let durations = Spread { median: 4.0, min: 2.0, max: 5.0 };
        assert_eq!(durations.reciprocal(100.0), Spread { median: 25.0, min: 20.0, max: 50.0 });
        assert_eq!(durations.scaled(0.5).text(1), "2.0 [1.0-2.5]");
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 9.0]), 3.0);
        assert!(median(&mut []).is_nan());
    }
}
