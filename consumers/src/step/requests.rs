//! Score requests, answered once or standing. Before it stands `decode`, after it `publish`.

use super::publish::standing_key;
use super::{
    Behavior, Cause, Coordinates, DecodedRequest, Failure, Folded, HEADER_ID, Headers, ItemTable,
    KindId, Owned, Pipeline, Place, Record, RowRequest, SHOWN, Standing, StepOutput, Timestamp,
    Topic, TopicPartition,
};

impl Pipeline {
    pub(super) fn mark_standing(
        &mut self,
        user: &str,
        place: Place,
        owned: &mut Owned,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let waiting: Vec<String> = owned
            .users
            .user(place)
            .standing()
            .iter()
            .filter(|standing| standing.due.is_none())
            .map(|standing| standing.request.clone())
            .collect();
        for request in waiting {
            owned
                .users
                .set_due(user, &request, Some(now.plus(self.settings.debounce_ms)))?;
        }
        Ok(())
    }

    pub(super) fn request(
        &mut self,
        record: &Record<'_>,
        decoded: &DecodedRequest<'_>,
        owned: &mut Owned,
        items: &ItemTable,
        now: Timestamp,
        salt: &mut dyn FnMut() -> [u8; 16],
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        self.check_place(record, &decoded.user);
        let config = &self.settings.config;
        let watermark = owned.users.position().watermark;
        let clock = if record.timestamp >= 0 {
            Timestamp(record.timestamp)
        } else {
            now
        };
        let refused = if decoded
            .deadline_ms
            .is_some_and(|ms| now > decoded.time.plus(ms))
        {
            Some("expired")
        } else if decoded.time > clock.plus(config.state.max_ahead.millis()) {
            Some("future")
        } else if watermark > decoded.time.plus(config.step.request_max_age.millis()) {
            Some("expired")
        } else if decoded.candidates.len() > config.step.candidates_max {
            Some("too_many_candidates")
        } else {
            None
        };
        let cause = self.cause(record);
        let cause = Cause {
            id: &cause,
            partition: owned.number,
            headers: record.headers,
        };
        let candidates: Vec<&str> = decoded
            .candidates
            .iter()
            .map(|candidate| &**candidate)
            .collect();
        let mut request = RowRequest {
            request_id: &decoded.request_id,
            user: &decoded.user,
            scenario_name: &decoded.scenario_name,
            scenario: decoded.scenario,
            time: decoded.time,
            candidates: &candidates,
        };
        if let Some(status) = refused {
            self.metrics.requests.with_label_values(&[status]).inc();
            request.candidates = &[];
            self.answer(
                &request,
                cause,
                owned,
                (status, &[]),
                &[Topic::Scores],
                None,
                output,
            );
            return Ok(());
        }
        let mut degraded = Vec::new();
        if !self.decoder.knows_scenario(&decoded.scenario_name) && decoded.scenario_name != "other"
        {
            degraded.push("unknown_scenario");
        }
        let standing = decoded
            .standing_ttl_ms
            .map(|ttl| ttl.min(config.scoring.standing_ttl_max.millis()));
        let mut to = vec![Topic::Scores];
        if let Some(ttl) = standing {
            let full = config.scoring.standing_max == 0
                || owned.users.whole_user(&decoded.user)?.is_some_and(|user| {
                    user.standing().len() >= config.scoring.standing_max
                        && !user
                            .standing()
                            .iter()
                            .any(|standing| standing.request == *decoded.request_id)
                });
            if full {
                degraded.push("too_many_standing");
            } else {
                let standing = Standing {
                    request: decoded.request_id.clone().into_owned(),
                    expires: now.plus(ttl),
                    due: None,
                    body: record.value.unwrap_or_default().to_vec(),
                };
                owned.users.set_standing(
                    &decoded.user,
                    &decoded.request_id,
                    Some(standing),
                    salt,
                )?;
                to.push(Topic::StandingScores);
            }
        }
        let shown = config
            .scoring
            .requests_are_impressions
            .then(|| self.settings.impressions.first().copied())
            .flatten();
        self.metrics.requests.with_label_values(&["ok"]).inc();
        let place = owned.users.place(&decoded.user)?;
        self.score(
            (&request, place),
            cause,
            owned,
            items,
            now,
            &degraded,
            &to,
            output,
        )?;
        if let Some(kind) = shown {
            self.shown(&request, record.offset, kind, owned, items, salt)?;
        }
        Ok(())
    }

    /// Counts each candidate of a request as shown, where config says that requests are impressions.
    pub(super) fn shown(
        &mut self,
        request: &RowRequest<'_>,
        offset: i64,
        kind: KindId,
        owned: &mut Owned,
        items: &ItemTable,
        salt: &mut dyn FnMut() -> [u8; 16],
    ) -> Result<(), Failure> {
        let mut user = owned.users.place(request.user)?;
        for (place, candidate) in request.candidates.iter().enumerate() {
            let impression = Behavior {
                at: Coordinates {
                    offset,
                    index: SHOWN.saturating_add(u16::try_from(place).unwrap_or(u16::MAX)),
                },
                time: request.time,
                event: 0,
                kind,
                scenario: request.scenario,
                item: Some(candidate),
                value: None,
                attributes: &[],
            };
            let folded = owned
                .users
                .fold_at((request.user, user), &impression, salt)?;
            let Folded::Counted { place, .. } = folded else {
                continue;
            };
            user = Some(place);
            if self.settings.config.scoring.item_statistics {
                self.count(
                    candidate,
                    items,
                    request.scenario,
                    kind,
                    request.time,
                    headwater_state::FixedSum(0),
                );
            }
        }
        Ok(())
    }

    /// Scores standing requests that are due, and ends those that have expired.
    pub(super) fn timers(
        &mut self,
        owned: &mut Owned,
        items: &ItemTable,
        now: Timestamp,
        salt: &mut dyn FnMut() -> [u8; 16],
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        let due: Vec<(String, String)> = owned
            .users
            .due(now)
            .take(self.settings.config.step.records_max)
            .map(|(_, user, request)| (user.to_owned(), request.to_owned()))
            .collect();
        for (user, request) in due {
            let Some(place) = owned.users.place(&user)? else {
                continue;
            };
            let known = owned.users.user(place);
            let Some(standing) = known
                .standing()
                .iter()
                .find(|standing| standing.request == request)
                .cloned()
            else {
                continue;
            };
            let newest = known
                .recent()
                .newest()
                .map_or(Timestamp::MIN, |behavior| behavior.time);
            standing_key(&user, &request, &mut self.key);
            let of = |topic| owned.users.position().input(topic).unwrap_or(0);
            let cause = format!(
                "{}-{}-{}-{}-{}",
                if standing.expires <= now {
                    "ended"
                } else {
                    "standing"
                },
                owned.number,
                of(Topic::Behaviors),
                of(Topic::ScoreRequests),
                String::from_utf8_lossy(&self.key),
            );
            if standing.expires <= now {
                owned.users.set_standing(&user, &request, None, salt)?;
                let headers = [(HEADER_ID, Some(cause.as_bytes()))];
                let at = TopicPartition::new(Topic::StandingScores, owned.number);
                output
                    .transactional
                    .push(at, (0, 0), Some(&self.key), None, headers);
                continue;
            }
            owned.users.set_due(&user, &request, None)?;
            let body = standing.body;
            let decoded = self
                .decoder
                .request(Some(&body))
                .map_err(|reject| Failure::Standing(request.clone(), reject))?;
            let candidates: Vec<&str> = decoded
                .candidates
                .iter()
                .map(|candidate| &**candidate)
                .collect();
            let request = RowRequest {
                request_id: &decoded.request_id,
                user: &user,
                scenario_name: &decoded.scenario_name,
                scenario: decoded.scenario,
                time: newest.plus(1).max(decoded.time),
                candidates: &candidates,
            };
            let cause = Cause {
                id: &cause,
                partition: owned.number,
                headers: Headers::default(),
            };
            self.score(
                (&request, Some(place)),
                cause,
                owned,
                items,
                now,
                &[],
                &[Topic::StandingScores],
                output,
            )?;
        }
        Ok(())
    }
}
