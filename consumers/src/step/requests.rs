//! Score requests, answered once or standing. Before it stands `decode`, after it `publish`.

use super::publish::standing_key;
use super::{
    Behavior, Cause, Coordinates, DecodedRequest, Failure, Folded, Headers, ItemTable, KindId,
    Owned, Pipeline, Place, RandomOrder, Record, RowRequest, SHOWN, Standing, StepOutput,
    Timestamp, Topic, taken,
};

/// Bytes of a request that stands at most: it is one record of the changelog.
const STANDING_BYTES_MAX: usize = 512 * 1024;

impl Pipeline {
    pub(super) fn mark_standing(
        &mut self,
        user: &str,
        place: Place,
        owned: &mut Owned,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let due = now.plus(self.settings.debounce_ms);
        let waiting: Vec<String> = owned
            .users
            .user(place)
            .standing()
            .iter()
            // Some wait for vectors, and for longer.
            .filter(|standing| standing.due.is_none_or(|other| other > due))
            .map(|standing| standing.request.clone())
            .collect();
        for request in waiting {
            owned.users.set_due(user, &request, Some(due))?;
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
        self.check_place(record, &decoded.user, output);
        let config = &self.settings.config;
        let watermark = owned.users.position().watermark;
        let clock = taken(record, now);
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
        let candidates = names(decoded);
        let mut request = RowRequest {
            request_id: &decoded.request_id,
            user: &decoded.user,
            scenario_name: &decoded.scenario_name,
            scenario: decoded.scenario,
            time: decoded.time,
            candidates: &candidates,
            order: self.order(decoded, decoded.time),
        };
        if let Some(status) = refused {
            self.metrics.requests.with_label_values(&[status]).inc();
            (request.candidates, request.order) = (&[], None);
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
        let mut to = vec![Topic::Scores];
        // Parts that the scores of this request had so far, and have from now on.
        let mut parts = 0..0;
        if let Some(ttl) = decoded.standing_ttl_ms {
            match self.stand(record, decoded, ttl, &candidates, owned, now, salt)? {
                Ok(stands) => {
                    parts = stands;
                    to.push(Topic::StandingScores);
                }
                Err(why_not) => degraded.push(why_not),
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
            (&degraded, &to),
            salt,
            output,
        )?;
        self.open_row(&request, cause.id, owned, output)?;
        let whose = (request.user, request.request_id);
        self.end_parts(whose, parts, cause, output);
        if to.contains(&Topic::StandingScores) {
            self.again_with_vectors(whose, owned, now)?;
        }
        if let Some(kind) = shown {
            self.shown(&request, record.offset, kind, owned, items, salt)?;
        }
        Ok(())
    }

    /// The random order of a request's candidates, if it is to have one when it is scored at this time.
    fn order(&self, decoded: &DecodedRequest<'_>, time: Timestamp) -> Option<RandomOrder> {
        let share = self.settings.config.scoring.explore.get();
        RandomOrder::of(share, (&decoded.user, &decoded.request_id), time)
    }

    /// Makes a request stand for `ttl`, or says why it does not. The newest request of an id replaces the one before in both cases. Gives
    /// how many parts its scores have, up to how many they had.
    fn stand(
        &self,
        record: &Record<'_>,
        decoded: &DecodedRequest<'_>,
        ttl: i64,
        candidates: &[&str],
        owned: &mut Owned,
        now: Timestamp,
        salt: &mut dyn FnMut() -> [u8; 16],
    ) -> Result<Result<std::ops::Range<usize>, &'static str>, Failure> {
        let scoring = &self.settings.config.scoring;
        let known = owned.users.whole_user(&decoded.user)?;
        let stands = known.map_or(&[][..], headwater_state::User::standing);
        let same = stands
            .iter()
            .find(|standing| standing.request == *decoded.request_id);
        let value = record.value.unwrap_or_default();
        let why_not = if value.len() > STANDING_BYTES_MAX {
            Some("standing_too_large")
        } else if same.is_none() && stands.len() >= scoring.standing_max
            || scoring.standing_max == 0
        {
            Some("too_many_standing")
        } else {
            None
        };
        let had = same.map_or(0, |same| read_body(&same.body).0);
        let parts = self.split(candidates).len();
        let standing = match (why_not, same) {
            (None, _) => Standing {
                request: decoded.request_id.clone().into_owned(),
                expires: now.plus(ttl.min(scoring.standing_ttl_max.millis())),
                due: None,
                body: body_of(parts, value),
            },
            // It ends with this step.
            (Some(_), Some(same)) => Standing {
                expires: now,
                ..same.clone()
            },
            (Some(why_not), None) => return Ok(Err(why_not)),
        };
        let (user, request) = (&decoded.user, &decoded.request_id);
        owned
            .users
            .set_standing(user, request, Some(standing), salt)?;
        Ok(why_not.map_or(Ok(parts..had), Err))
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
                text: None,
                sequences: &[],
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

    /// Scores standing requests that are due, and ends those that have expired, until `full` bytes are given out: the others stay due.
    pub(super) fn timers(
        &mut self,
        owned: &mut Owned,
        items: &ItemTable,
        now: Timestamp,
        salt: &mut dyn FnMut() -> [u8; 16],
        full: usize,
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        let due: Vec<(Timestamp, String, String)> = owned
            .users
            .due(now)
            .take(self.settings.config.step.records_max)
            .map(|(due, user, request)| (due, user.to_owned(), request.to_owned()))
            .collect();
        for (due, user, request) in due {
            if self.given(owned, output) >= full {
                break;
            }
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
            let (had, body) = read_body(&standing.body);
            let decoded = self.still_stands(&standing, body, now);
            standing_key(&user, &request, 0, &mut self.key);
            let of = |topic| owned.users.position().input(topic).unwrap_or(0);
            let cause = format!(
                "{}-{}-{}-{}-{}-{}",
                if decoded.is_some() {
                    "standing"
                } else {
                    "ended"
                },
                owned.number,
                of(Topic::Behaviors),
                of(Topic::ScoreRequests),
                // Where nothing but vectors has come in between.
                due.0,
                String::from_utf8_lossy(&self.key),
            );
            let cause = Cause {
                id: &cause,
                partition: owned.number,
                headers: Headers::default(),
            };
            let Some(decoded) = decoded else {
                owned.users.set_standing(&user, &request, None, salt)?;
                self.end_parts((&user, &request), 0..had, cause, output);
                continue;
            };
            let candidates = names(&decoded);
            let parts = self.split(&candidates).len();
            owned.users.set_due(&user, &request, None)?;
            if parts != had {
                // It was split by another configuration.
                let again = Standing {
                    due: None,
                    body: body_of(parts, body),
                    ..standing.clone()
                };
                owned
                    .users
                    .set_standing(&user, &request, Some(again), salt)?;
            }
            let time = newest.plus(1).max(decoded.time);
            let request = RowRequest {
                request_id: &decoded.request_id,
                user: &user,
                scenario_name: &decoded.scenario_name,
                scenario: decoded.scenario,
                time,
                candidates: &candidates,
                order: self.order(&decoded, time),
            };
            self.score(
                (&request, Some(place)),
                cause,
                owned,
                items,
                now,
                (&[], &[Topic::StandingScores]),
                salt,
                output,
            )?;
            self.open_row(&request, cause.id, owned, output)?;
            self.end_parts((&user, request.request_id), parts..had, cause, output);
            self.again_with_vectors((&user, request.request_id), owned, now)?;
        }
        Ok(())
    }

    /// Has a standing request scored again, that went without vectors: they are being made, whether its user does anything or not.
    fn again_with_vectors(
        &self,
        (user, request): (&str, &str),
        owned: &mut Owned,
        now: Timestamp,
    ) -> Result<(), Failure> {
        if let Some(after_ms) = self.assembler.again_after_ms() {
            let due = now.plus(after_ms.max(self.settings.debounce_ms));
            owned.users.set_due(user, request, Some(due))?;
        }
        Ok(())
    }

    /// What a standing request asks for; none where it has expired, or is none by the configuration of today.
    fn still_stands<'a>(
        &self,
        standing: &Standing,
        body: &'a [u8],
        now: Timestamp,
    ) -> Option<DecodedRequest<'a>> {
        if standing.expires <= now {
            return None;
        }
        match self.decoder.request(Some(body)) {
            Ok(decoded) => Some(decoded),
            Err(reject) => {
                tracing::warn!(request = standing.request, %reject, "standing request ended");
                None
            }
        }
    }
}

/// The candidates of a request.
fn names<'a>(decoded: &'a DecodedRequest<'_>) -> Vec<&'a str> {
    let candidates = decoded.candidates.iter();
    candidates.map(|candidate| &**candidate).collect()
}

/// What a body that says how many parts its scores have begins with. No JSON does.
const PARTS: u8 = 1;

/// A standing request as state keeps it: in how many parts its scores lie in the topic, and the record.
fn body_of(parts: usize, record: &[u8]) -> Vec<u8> {
    let parts = u32::try_from(parts).expect("invariant: a record holds fewer candidates");
    let mut body = vec![PARTS];
    body.extend_from_slice(&parts.to_le_bytes());
    body.extend_from_slice(record);
    body
}

/// The parts and the record of [`body_of`]. A body that is the record alone is of a build that gave all parts one key.
fn read_body(body: &[u8]) -> (usize, &[u8]) {
    let parts = body
        .strip_prefix(&[PARTS])
        .and_then(<[u8]>::split_first_chunk);
    match parts {
        Some((parts, record)) => (u32::from_le_bytes(*parts) as usize, record),
        None => (1, body),
    }
}
