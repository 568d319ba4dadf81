//! Numbers for people.

/// A count with three digits: `999`, `1.23k`, `45.6M`.
pub(crate) fn count(value: u64) -> String {
    const UNITS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let mut unit = 0;
    let mut divisor = 1_u64;
    while value / divisor >= 1000 {
        divisor *= 1000;
        unit += 1;
    }
    let whole = value / divisor;
    let decimals: usize = match whole {
        _ if unit == 0 => 0,
        0..10 => 2,
        10..100 => 1,
        _ => 0,
    };
    // Cut, not rounded, so that 999999 does not become "1000k".
    let thousandths = u128::from(value % divisor) * 1000 / u128::from(divisor);
    let fraction = format!("{thousandths:03}");
    let point = if decimals > 0 { "." } else { "" };
    format!("{whole}{point}{}{}", &fraction[..decimals], UNITS[unit])
}

/// A time in its two largest units: `1 d 2 h`, `5 min 7 s`.
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A share in percent with one decimal; `-` of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let thousandths = u128::from(part) * 1000 / u128::from(whole);
    format!("{}.{}%", thousandths / 10, thousandths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        for (value, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.00k"),
            (1239, "1.23k"),
            (45_678, "45.6k"),
            (999_999, "999k"),
            (1_000_000, "1.00M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(value), expected, "{value}");
        }
    }

    #[test]
    fn durations_and_shares() {
        for (seconds, expected) in
            [(0, "0 s"), (59, "59 s"), (67, "1 min 7 s"), (3600, "1 h 0 min"), (93_700, "1 d 2 h")]
        {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
        assert_eq!(percent(1, 3), "33.3%");
        assert_eq!(percent(0, 0), "-");
        assert_eq!(percent(u64::MAX, u64::MAX), "100.0%");
    }
}
