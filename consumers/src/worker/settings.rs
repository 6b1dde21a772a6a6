//! What of the configuration the state of a partition follows, and its share of memory. Before it stands the configuration; after it,
//! `worker` opens partitions, and shares again when one comes or goes.

use headwater_config::Config;

/// The state's settings, for one partition among `partitions` of this instance.
pub fn settings_of(config: &Config, partitions: usize) -> headwater_state::Settings {
    headwater_state::Settings {
        recent_max: config.state.recent,
        memory: config.state.memory.as_usize() / partitions.max(1),
        keys_max: config
            .state
            .keys_max
            .map_or(0, |keys| u32::try_from(keys).unwrap_or(u32::MAX)),
        allowed_lateness_ms: config.state.allowed_lateness.millis(),
        drop_late: config.state.late == headwater_config::Late::Drop,
        sequence_max: config.texts.sequence_max,
        labels: crate::label_rules(config).map(std::sync::Arc::new),
    }
}

/// The same, shared among the partitions and workers that there are.
pub(super) fn settings_of_share(
    whole: &headwater_state::Settings,
    partitions: usize,
    workers: usize,
) -> headwater_state::Settings {
    headwater_state::Settings {
        memory: whole.memory / (partitions.max(1) * workers.max(1)),
        ..whole.clone()
    }
}
