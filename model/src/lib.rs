//! To come.

/// Scores of candidates.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    values: Vec<f32>,
    tasks: usize,
}

impl Scores {
    /// The scores of candidate `place`, one a task; empty where nothing was scored.
    pub fn of(&self, place: usize) -> &[f32] {
        self.values
            .get(place * self.tasks..(place + 1) * self.tasks)
            .unwrap_or_default()
    }
    /// Begins anew.
    pub fn reset(&mut self, candidates: usize, tasks: usize) {
        self.tasks = tasks;
        self.values.clear();
        self.values.resize(candidates * tasks, f32::NAN);
    }
    /// Sets one.
    pub fn set(&mut self, place: usize, task: usize, value: f32) {
        self.values[place * self.tasks + task] = value;
    }
}
