//! Rows from state (provisional).

use headwater_config::Config;
use headwater_model::Scores;
use headwater_state::{Entity, ItemTable, KindId, ScenarioId, Timestamp, User, of_series};

use crate::step::RowRequest;

/// What a row is made of.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The user, if anything is known of them.
    pub user: Option<&'a User>,
    /// Where.
    pub scenario: ScenarioId,
    /// Row time.
    pub time: Timestamp,
    /// What to score.
    pub candidates: &'a [&'a str],
}

/// Makes rows and scores them.
#[derive(Debug)]
pub struct Assembler {
    tasks: Vec<String>,
    positive: Vec<Vec<KindId>>,
    item_state: i64,
}

impl Assembler {
    /// For a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            tasks: config.tasks.keys().cloned().collect(),
            positive: config
                .tasks
                .values()
                .map(|task| task.positive.iter().map(|kind| KindId::of(kind)).collect())
                .collect(),
            item_state: 0,
        }
    }

    /// Scores the candidates of a row.
    pub fn score(&mut self, row: &Row<'_>, items: &ItemTable, scores: &mut Scores) {
        self.item_state = items.positions().values().sum();
        scores.reset(row.candidates.len(), self.tasks.len());
        for (place, candidate) in row.candidates.iter().enumerate() {
            for task in 0..self.tasks.len() {
                let (mut positives, mut trials) = (1.0, 10.0);
                if let Some(cells) = items.statistics(Entity::Item(candidate)) {
                    for cell in cells.iter().filter(|cell| cell.end() <= row.time) {
                        trials += f64::from(cell.count);
                        if self.positive[task].contains(&of_series(cell.series).1) {
                            positives += f64::from(cell.count);
                        }
                    }
                }
                if let Some(user) = row.user {
                    let own = user.recent().iter().filter(|behavior| {
                        behavior.time < row.time && behavior.item == Some(candidate)
                    });
                    positives += own.count() as f64 / 10.0;
                }
                scores.set(place, task, (positives / trials) as f32);
            }
        }
    }

    /// Names of the tasks.
    pub fn task_names(&self) -> &[String] {
        &self.tasks
    }
    /// Who scores.
    pub fn model_name(&self) -> &'static str {
        "provisional"
    }
    /// Hash of the schema.
    pub fn schema_hash(&self) -> &'static str {
        "0"
    }
    /// What item statistics the last rows saw.
    pub fn item_state(&self) -> i64 {
        self.item_state
    }
    /// Logs a row.
    pub fn log_row(
        &self,
        request: &RowRequest<'_>,
        pseudonym: &str,
        place: usize,
        scores: &Scores,
        _: &ItemTable,
        to: &mut Vec<u8>,
    ) {
        let row = serde_json::json!({"request": request.request_id, "user": pseudonym, "item": request.candidates[place], "scores": scores.of(place)});
        serde_json::to_writer(to, &row).expect("invariant: plain JSON");
    }
}
