//! The sequences of a user: which behaviors are in which, and what text stands for one.
//!
//! Before it, behaviors are decoded; after it, state keeps each sequence as a run of (hash of the text, time), rows are held against what is in them, and deep
//! layers run over them.

use std::collections::BTreeMap;

use headwater_config::{Config, Template, TextsConfig};
use headwater_state::{ItemTable, KindId, SequenceId};

use crate::decode::DecodedBehavior;
use crate::texts;

/// The sequences of a configuration.
#[derive(Debug)]
pub struct Sequences {
    all: Vec<Sequence>,
    texts: TextsConfig,
    kind_names: BTreeMap<KindId, String>,
}

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    name: String,
    kinds: Kinds,
}

/// What a sequence is made of.
#[derive(Debug)]
enum Kinds {
    /// These.
    Of(Vec<KindId>),
    /// All but these.
    AllBut(Vec<KindId>),
}

impl Sequences {
    /// Those of a configuration, in its order.
    pub fn new(config: &Config) -> Self {
        let ids = |names: &[String]| names.iter().map(|name| KindId::of(name)).collect();
        let all = config.sequences.iter().map(|(name, kinds)| Sequence {
            id: SequenceId::of(name),
            name: name.clone(),
            kinds: if kinds.is_empty() {
                Kinds::AllBut(ids(&config.kinds.impressions))
            } else {
                Kinds::Of(ids(kinds))
            },
        });
        let kinds = config.kinds.names.iter();
        Self {
            all: all.collect(),
            texts: config.texts.clone(),
            kind_names: kinds.map(|name| (KindId::of(name), name.clone())).collect(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a behavior of that kind is in a sequence, by its place.
    pub fn has(&self, sequence: usize, kind: KindId) -> bool {
        match &self.all[sequence].kinds {
            Kinds::Of(kinds) => kinds.contains(&kind),
            Kinds::AllBut(kinds) => !kinds.contains(&kind),
        }
    }

    /// The places of the sequences that behaviors of a kind are in.
    pub fn of(&self, kind: KindId) -> impl Iterator<Item = usize> {
        (0..self.all.len()).filter(move |sequence| self.has(*sequence, kind))
    }

    /// What state knows a sequence by.
    pub fn id(&self, sequence: usize) -> SequenceId {
        self.all[sequence].id
    }

    /// What the configuration calls it.
    pub fn name(&self, sequence: usize) -> &str {
        &self.all[sequence].name
    }

    /// What makes a behavior's text, and which behaviors are in which sequence: a line a thing.
    pub fn description(&self) -> Vec<String> {
        let mut lines = vec![format!("texts.item {}", self.texts.item)];
        let behaviors = self.texts.behaviors.iter();
        lines.extend(behaviors.map(|(of, text)| format!("texts.behaviors.{of} {text}")));
        for sequence in &self.all {
            let (kinds, are) = match &sequence.kinds {
                Kinds::Of(kinds) => (kinds, "of"),
                Kinds::AllBut(kinds) => (kinds, "all but"),
            };
            let names = kinds.iter().filter_map(|kind| self.kind_names.get(kind));
            let names: Vec<&str> = names.map(String::as_str).collect();
            lines.push(format!(
                "sequences.{} {are} {}",
                sequence.name,
                names.join(" ")
            ));
        }
        lines
    }

    /// The template of items.
    pub fn item_template(&self) -> &Template {
        &self.texts.item
    }

    /// The text that stands for a behavior, from its record and from what is known of its item now; none where there is no template for its kind, or where
    /// that finds nothing.
    pub fn text(
        &self,
        behavior: &DecodedBehavior<'_>,
        scenario: &str,
        items: &ItemTable,
    ) -> Option<String> {
        let kind = self.kind_names.get(&behavior.kind)?;
        let template = self.texts.behavior(scenario, kind)?;
        let text = texts::of_behavior(
            template,
            &self.texts.item,
            behavior,
            (kind, scenario),
            items,
        );
        (!text.is_empty()).then_some(text)
    }
}
