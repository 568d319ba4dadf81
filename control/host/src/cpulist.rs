//! Sets of cores in the kernel's notation.

use std::collections::BTreeSet;
use std::fmt;

/// A set of cores, written "0-3,8".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(pub BTreeSet<usize>);

/// No machine has more.
const MOST: usize = 1 << 16;

impl CpuList {
    /// Reads the kernel's notation. Parts that are none (a file may say "(null)") are left out.
    pub fn parse(text: &str) -> Self {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (last < MOST).then_some(first..=last)
        };
        Self(text.split(',').filter_map(range).flatten().collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `core` is one of them.
    pub fn contains(&self, core: usize) -> bool {
        self.0.contains(&core)
    }

    /// Those that are in `other`, too.
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Those that are not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
}

impl FromIterator<usize> for CpuList {
    fn from_iter<I: IntoIterator<Item = usize>>(cores: I) -> Self {
        Self(cores.into_iter().collect())
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cores = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = cores.next() {
            let mut last = first;
            while cores.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            match first == last {
                true => write!(f, "{separator}{first}")?,
                false => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_notation_is_read_and_written() {
        for (text, written) in [
            ("0-3,8", "0-3,8"),
            ("8,0,1", "0-1,8"),
            ("5", "5"),
            ("", ""),
            ("(null)", ""),
            ("3-1", ""),
            ("0-99999999", ""),
        ] {
            assert_eq!(CpuList::parse(text).to_string(), written, "{text}");
        }
    }

    #[test]
    fn sets_are_compared() {
        let (a, b) = (CpuList::parse("0-3"), CpuList::parse("2-5"));
        assert_eq!(a.and(&b).to_string(), "2-3");
        assert_eq!(a.without(&b).to_string(), "0-1");
        assert!(a.contains(3) && !a.contains(4) && a.and(&CpuList::parse("9")).is_empty());
    }
}
