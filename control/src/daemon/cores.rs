//! Which thread runs on which core.

use std::collections::BTreeSet;

use crate::config::{Config, Idle};

/// Cores of the threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Of the control thread.
    pub control: usize,
    /// By worker.
    pub workers: Vec<usize>,
}

/// A core that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// The system does not tell.
    #[error("cannot find out which cores this process may use: look at its CPU affinity (`taskset -p`)")]
    Unknown,
    /// The machine does not have it, or this process may not use it.
    #[error("core {core} is not available: choose among those that this process may use: {available}")]
    Unavailable {
        /// The key of the configuration.
        key: &'static str,
        /// The core.
        core: usize,
        /// Those there are.
        available: String,
    },
}

/// The cores this process may use, sorted.
pub fn available() -> Result<Vec<usize>, CoreError> {
    let mut cores: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    cores.sort_unstable();
    if cores.is_empty() { Err(CoreError::Unknown) } else { Ok(cores) }
}

impl Cores {
    /// What the configuration says, and sensible choices where it says nothing: workers get the last cores, the control
    /// thread the first one that is left. `available` is sorted and not empty.
    pub fn plan(config: &Config, available: &[usize]) -> Result<Self, CoreError> {
        let check = |key, core| match available.contains(&core) {
            true => Ok(()),
            false => Err(CoreError::Unavailable { key, core, available: list(available) }),
        };
        let number = config.workers.number();
        let workers = match &config.workers.cores {
            Some(cores) => cores.clone(),
            None => {
                let spare = usize::from(available.len() > 1);
                let usable = &available[spare..];
                let first = usable.len().saturating_sub(number);
                (0..number).map(|worker| usable[(first + worker) % usable.len()]).collect()
            }
        };
        for &core in &workers {
            check("workers.cores", core)?;
        }
        let control = match config.daemon.control_core {
            Some(core) => core,
            None => *available.iter().find(|core| !workers.contains(core)).unwrap_or(&available[0]),
        };
        check("daemon.control_core", control)?;
        Ok(Self { control, workers })
    }

    /// What is unwise about it, one line each.
    pub fn warnings(&self, idle: Idle) -> Vec<String> {
        if idle == Idle::Yield {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        let mut seen = BTreeSet::new();
        let shared: BTreeSet<usize> = self.workers.iter().copied().filter(|&core| !seen.insert(core)).collect();
        for core in shared {
            warnings.push(format!(
                "several workers share core {core} and all poll without pause: give each a core, or set workers.idle to 'yield'"
            ));
        }
        if self.workers.contains(&self.control) {
            warnings.push(format!(
                "the control thread shares core {} with a worker that polls without pause: \
                 give it another core, or set workers.idle to 'yield'",
                self.control
            ));
        }
        warnings
    }
}

fn list(cores: &[usize]) -> String {
    let names: Vec<String> = cores.iter().map(ToString::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(count: Option<usize>, cores: Option<&[usize]>, control: Option<usize>) -> Config {
        let mut config = Config::default();
        config.workers.count = count;
        config.workers.cores = cores.map(<[usize]>::to_vec);
        config.daemon.control_core = control;
        config
    }

    #[test]
    fn cores_are_chosen() {
        let four = [0, 1, 2, 3];
        for (config, available, control, workers) in [
            (config(None, None, None), &four[..], 0, vec![3]),
            (config(Some(3), None, None), &four, 0, vec![1, 2, 3]),
            (config(Some(5), None, None), &four, 0, vec![1, 2, 3, 1, 2]),
            (config(None, Some(&[0, 1]), None), &four, 2, vec![0, 1]),
            (config(None, Some(&[0, 1]), Some(3)), &four, 3, vec![0, 1]),
            (config(None, Some(&[2, 2]), Some(2)), &four, 2, vec![2, 2]),
            (config(Some(2), None, None), &[5], 5, vec![5, 5]),
            (config(None, None, None), &[4, 6], 4, vec![6]),
        ] {
            assert_eq!(Cores::plan(&config, available), Ok(Cores { control, workers }), "{config:?}");
        }
    }

    #[test]
    fn missing_cores_are_named() {
        let error = Cores::plan(&config(None, Some(&[1, 9]), None), &[0, 1]).unwrap_err();
        assert_eq!(error.to_string(), "core 9 is not available: choose among those that this process may use: 0, 1");
        let error = Cores::plan(&config(None, None, Some(7)), &[0, 1]).unwrap_err();
        let CoreError::Unavailable { key, core, .. } = error else { panic!("{error}") };
        assert_eq!((key, core), ("daemon.control_core", 7));
    }

    #[test]
    fn sharing_is_fine_unless_somebody_polls() {
        let shared = Cores { control: 0, workers: vec![0, 1, 1, 1] };
        assert_eq!(shared.warnings(Idle::Yield), [""; 0]);
        let warnings = shared.warnings(Idle::Poll);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("several workers share core 1 "), "{warnings:?}");
        assert!(warnings[1].starts_with("the control thread shares core 0 "), "{warnings:?}");
        assert_eq!(Cores { control: 0, workers: vec![1, 2] }.warnings(Idle::Poll), [""; 0]);
    }
}
