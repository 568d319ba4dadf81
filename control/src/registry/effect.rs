//! What health checks make of servers, beside what the configuration says of them.

use dpvs_api::OnFailure;

use super::{MAX_WEIGHT, Member};

/// What health checks make of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// It is out of the service, as if it was removed.
    pub removed: bool,
    /// Its weight in place of the configured one.
    pub weight: Option<u32>,
    /// Its share of that, in percent, 1 to 100.
    pub share: u32,
}

impl Effect {
    /// The server is as the configuration says.
    pub const NONE: Self = Self { removed: false, weight: None, share: 100 };
    /// The server is out of the service.
    pub const REMOVED: Self = Self { removed: true, ..Self::NONE };

    /// The server gets no new connections.
    pub fn of(on_failure: OnFailure) -> Self {
        match on_failure {
            OnFailure::Remove => Self::REMOVED,
            OnFailure::ZeroWeight => Self { weight: Some(0), ..Self::NONE },
        }
    }
}

impl Member {
    /// Its weight as people see it: with `None`, it is out of the service.
    pub fn effective_weight(&self) -> Option<u32> {
        let Effect { removed, weight, share } = self.effect;
        let weight = weight.unwrap_or(self.server.weight);
        (!removed).then(|| (weight * share).div_ceil(100))
    }

    /// Its weight among servers whose weights are all taken times `scale`.
    pub(super) fn scaled_weight(&self, scale: u32) -> u32 {
        let Effect { weight, share, .. } = self.effect;
        (weight.unwrap_or(self.server.weight) * scale * share).div_ceil(100)
    }
}

/// What the weights of a service's servers are taken times: with small weights, a part of one would have no effect.
pub(super) fn scale(servers: &[Member]) -> u32 {
    if servers.iter().all(|member| member.effect.share == 100) {
        return 1;
    }
    let largest = servers.iter().map(|member| member.effect.weight.unwrap_or(member.server.weight)).max();
    (MAX_WEIGHT / largest.unwrap_or(0).max(1)).clamp(1, 100)
}
