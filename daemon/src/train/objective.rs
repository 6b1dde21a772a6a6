//! What is lowered, as the configuration and the command line name it.

use headwater_config::ObjectiveChoice;
use headwater_model::bahe::Objective;
use headwater_model::gradient::{GradientRule, Scope};

/// What a word stands for; `seed` is of what is left to chance.
#[must_use]
pub fn objective(choice: ObjectiveChoice, seed: u64) -> Objective {
    let rule = match choice {
        ObjectiveChoice::Labels => return Objective::Labels,
        ObjectiveChoice::Sum => GradientRule::Sum,
        ObjectiveChoice::Gdod => GradientRule::default(),
        ObjectiveChoice::PcGrad => GradientRule::PcGrad { seed },
        ObjectiveChoice::Mgda => GradientRule::Mgda,
        ObjectiveChoice::CaGrad => GradientRule::CaGrad { radius: 0.5 },
        ObjectiveChoice::AlignedMtl => GradientRule::AlignedMtl,
    };
    Objective::Tasks {
        rule,
        scope: Scope::Global,
    }
}
