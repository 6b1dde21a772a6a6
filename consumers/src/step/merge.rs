//! The records of one partition merged by time over topics, as far as the step has room for what they give out. Before it stands
//! `inputs`; after it `requests` answers, and behaviors are folded.

use super::{
    AHEAD, Decoded, DecodedRequest, Delta, Entity, Failure, Inputs, ItemTable, Owned, Pipeline,
    Record, RecordBatch, StepOutput, Timestamp, Topic, records, taken,
};

impl Pipeline {
    /// Bytes that the step gives out so far: what lies in the output, and what of this partition and of the deltas is still to go there.
    pub(super) fn given(&self, owned: &Owned, output: &StepOutput) -> usize {
        output.transactional.bytes()
            + output.immediate.bytes()
            + owned.users.changes_bytes()
            + owned.statistics.changes_bytes()
            + self.delta_bytes
    }

    /// The records of one partition, until `full` bytes are given out; gives from where on each topic is left.
    pub(super) fn partition_step(
        &mut self,
        batch: &RecordBatch,
        inputs: &Inputs,
        owned: &mut Owned,
        items: &ItemTable,
        now: Timestamp,
        salt: &mut dyn FnMut() -> [u8; 16],
        full: usize,
        output: &mut StepOutput,
    ) -> Result<Vec<(Topic, i64)>, Failure> {
        self.folded = None;
        let deltas = self.deltas(batch, &inputs.deltas, owned, full, output)?;
        let mut left: Vec<_> = deltas
            .map(|at| (Topic::ItemDeltas, at))
            .into_iter()
            .collect();
        if self.given(owned, output) >= full {
            left.extend([
                (Topic::Behaviors, i64::MIN),
                (Topic::ScoreRequests, i64::MIN),
            ]);
            return Ok(left);
        }
        let mut requests = records(batch, &inputs.requests);
        let mut request = self.next_request(&mut requests, now, output);
        let mut ahead = Vec::with_capacity(AHEAD);
        let mut stopped = None;
        'behaviors: for chunk in inputs.behaviors.chunks(AHEAD) {
            for record in records(batch, chunk) {
                let decoded = self.decoder.behaviors(record.value, taken(&record, now).0);
                let place = match &decoded {
                    Ok(Decoded::One(behavior)) => owned.users.place(&behavior.user)?,
                    Ok(Decoded::Many { .. }) | Err(_) => None,
                };
                ahead.push((record, decoded, place));
            }
            for (record, decoded, place) in ahead.drain(..) {
                if self.given(owned, output) >= full {
                    stopped = Some(record.offset);
                    break 'behaviors;
                }
                let decoded = match decoded {
                    Ok(decoded) => decoded,
                    Err(reject) => {
                        self.dead_letter(&record, &reject, now, output);
                        // Like one that was read: what an answer names does not depend on how steps are cut.
                        owned.users.advance(Topic::Behaviors, record.offset + 1);
                        continue;
                    }
                };
                for (number, behavior) in decoded.behaviors().iter().enumerate() {
                    while let Some((due, decoded)) = request.take_if(|(_, decoded)| {
                        decoded.time <= behavior.time && self.given(owned, output) < full
                    }) {
                        self.request(&due, &decoded, owned, items, now, salt, output)?;
                        request = self.next_request(&mut requests, now, output);
                    }
                    // A record is taken whole: what is due within it then waits for the next step.
                    if number == 0 && self.given(owned, output) >= full {
                        stopped = Some(record.offset);
                        break 'behaviors;
                    }
                    // Only now: an answer names the behaviors that it could see.
                    owned.users.advance(Topic::Behaviors, record.offset + 1);
                    let place = match decoded {
                        Decoded::One(_) => place,
                        Decoded::Many { .. } => owned.users.place(&behavior.user)?,
                    };
                    self.behavior((&record, behavior, place), owned, items, now, salt, output)?;
                }
                if decoded.skipped() > 0 {
                    let dropped = self.metrics.dropped.with_label_values(&["unmapped_kind"]);
                    dropped.inc_by(decoded.skipped());
                }
            }
        }
        while stopped.is_none() && self.given(owned, output) < full {
            let Some((due, decoded)) = request.take() else {
                break;
            };
            self.request(&due, &decoded, owned, items, now, salt, output)?;
            request = self.next_request(&mut requests, now, output);
        }
        left.extend(stopped.map(|at| (Topic::Behaviors, at)));
        left.extend(request.map(|(record, _)| (Topic::ScoreRequests, record.offset)));
        Ok(left)
    }

    /// Folds item deltas into statistics; gives the offset of the first that is left.
    fn deltas(
        &mut self,
        batch: &RecordBatch,
        deltas: &[u32],
        owned: &mut Owned,
        full: usize,
        output: &StepOutput,
    ) -> Result<Option<i64>, Failure> {
        for record in records(batch, deltas) {
            if self.given(owned, output) >= full {
                return Ok(Some(record.offset));
            }
            let read = record
                .value
                .ok_or(headwater_state::Damage::Short)
                .and_then(Delta::read);
            let read = read
                .and_then(|delta| Entity::of_key(record.key.unwrap_or_default()).map(|_| delta));
            match read {
                Ok(delta) => owned
                    .statistics
                    .fold(record.key.unwrap_or_default(), &delta),
                Err(damage) => {
                    return Err(Failure::Internal(
                        record.at,
                        record.offset,
                        damage.to_string(),
                    ));
                }
            }
        }
        Ok(None)
    }

    fn next_request<'a>(
        &mut self,
        requests: &mut impl Iterator<Item = Record<'a>>,
        now: Timestamp,
        output: &mut StepOutput,
    ) -> Option<(Record<'a>, DecodedRequest<'a>)> {
        for record in requests {
            match self.decoder.request(record.value) {
                Ok(request) => return Some((record, request)),
                Err(reject) => self.dead_letter(&record, &reject, now, output),
            }
        }
        None
    }
}
