#!/usr/bin/env bash
# Plants one bug after another in a copy of the tree, and has the simulation's seeds look for it. Every bug must turn them red.
#   tests/simulation/planted.sh [NAME…]       about half a minute a bug, and some minutes before the first: a copy is built anew. TARGET_DIR: a target
#                                             folder to build in, such as $PWD/target
set -euo pipefail
cd "$(dirname "$0")/../.."
tree=$(mktemp -d "${TMPDIR:-/tmp}/headwater-planted.XXXXXX")
# Cargo tells a copy from its original by time stamps alone: in a shared target folder, what was built from a planted bug would
# pass for this tree's.
trap 'rm -rf "$tree"; [ -z "${TARGET_DIR:-}" ] || git ls-files -z "*.rs" | xargs -0 touch' EXIT
git archive HEAD | tar -x -m -C "$tree"
export CARGO_TARGET_DIR=${TARGET_DIR:-$tree/target}
missed=0

plant() { # plant NAME FILE FROM TO
  local name=$1 file=$2 from=$3 to=$4
  [ -z "$only" ] || [[ " $only " == *" $name "* ]] || return 0
  cp "$tree/$file" "$tree/sound"
  FROM=$from TO=$to perl -0pi -e 's/\Q$ENV{FROM}\E/$ENV{TO}/ or die "not found\n"' "$tree/$file" || { echo "$name: its place is not found in $file" >&2; exit 1; }
  if out=$(cd "$tree" && cargo test -q --workspace --test simulation 2>&1 | tr -d '\000'); then
    echo "$name: MISSED"; missed=$((missed + 1))
  elif found=$(grep -aoE '[0-9]+ of [0-9]+ seeds failed' <<<"$out"); then
    echo "$name: found, $found"
  else
    echo "$name: does not build, or ends otherwise:" >&2; tail -n 20 <<<"$out" >&2; exit 1
  fi
  mv "$tree/sound" "$tree/$file"
  touch "$tree/$file"
}

only=$*
plant position-one-too-far consumers/src/step/publish.rs '.push((TopicPartition::new(*topic, number), *next));' '.push((TopicPartition::new(*topic, number), *next + 1));'
plant read-position-short consumers/src/step/inputs.rs 'Some(batch.place(*last as usize).1 + 1)' 'Some(batch.place(*last as usize).1)'
plant statistics-not-undone consumers/src/worker.rs 'owned.statistics.discard();' ''
plant equal-times-visible consumers/src/assemble/entries.rs 'behavior.time < time)' 'behavior.time <= time)'
plant cell-not-ended consumers/src/assemble/memo.rs 'end(cell) <= until' 'cell.start().0 <= until'
plant counts-of-another-minute consumers/src/assemble/memo.rs 'self.minute.until = i64::MIN;' 'let _ = i64::MIN;'
plant page-not-written state/src/partition/write_back.rs '.filter(|page| page.dirty)' '.filter(|page| page.dirty && page.packed.len() < 200)'
plant position-with-the-first-part state/src/partition/write_back.rs 'self.write(part, None)' 'let early = self.sealed_position(now); self.write(part, Some(early))'
plant dedupe-forgotten state/src/partition.rs 'if resident.user.has_event(behavior.event)' 'if behavior.event == 1 && resident.user.has_event(behavior.event)'
plant restore-one-early consumers/src/restore.rs 'waiting.at[0] >= ends[0]' 'waiting.at[0] + 2 >= ends[0]'
plant changelog-position-too-far consumers/src/worker/commit.rs 'owned.users.committed(changelog.unwrap_or(reached));' 'owned.users.committed(changelog.unwrap_or(reached) + 3);'
plant dirty-user-evicted state/src/partition/residents.rs 'if used || resident.dirty || resident.writing' 'if used || resident.writing'
plant tombstone-missed state/src/partition/restore.rs 'self.put_standing(place, request, standing);' 'if standing.is_some() { self.put_standing(place, request, standing); }'
plant restore-stable-alone consumers/src/restore.rs 'let written = log.written(at)?;' 'let written = log.extent(at)?;'
plant parts-share-a-key consumers/src/step/publish.rs 'let written = match part {' 'let written = match part * 0 {'
plant parts-not-ended consumers/src/step/requests.rs 'self.end_parts(whose, parts, cause, output);' 'let _ = (whose, parts);'
plant salt-not-kept state/src/partition.rs 'let place = self.insert_new(user, salt());
                self.note(place);
                place' 'return Ok(salt());'
plant dead-letter-counted-again consumers/src/step.rs 'event: event_of(record, decoded),' 'event: if record.offset < 0 { event_of(record, decoded) } else { decoded.event },'
plant older-item-replaces-newer consumers/src/items/maker.rs 'held.time > decoded.time.0' 'held.time > decoded.time.0 + 1_000_000_000_000'
plant newer-item-not-put-back consumers/src/items/order.rs 'if !self.is_caught_up() {' 'if log.describe(headwater_config::Topic::Items).is_ok() {'
plant deleted-item-put-back consumers/src/items/order.rs '.is_some_and(|(_, offset)| *offset > behind)' '.is_some_and(|(_, offset)| *offset > behind + 1_000_000)'
plant asked-not-forgotten consumers/src/worker.rs 'self.pipeline.forget_asked();' ''
plant texts-forgotten-by-the-stage consumers/src/encode.rs 'let waiting = std::mem::take(&mut self.waiting);' 'let mut waiting = std::mem::take(&mut self.waiting); if waiting.len() > 3 { waiting.pop(); }'
plant sequence-start-not-told state/src/user/sequences.rs 'if inserted.restarted {' 'if inserted.restarted && behavior.event == 1 {'
plant vector-of-another-run consumers/src/assemble/deep.rs '&& kept.digest == sequence.digest(used)' ''
plant run-not-compared consumers/src/deepen.rs '&& held.digest == sequence.digest(has)' ''
plant vector-from-beyond consumers/src/assemble/deep.rs 'let before = sequence.before(row.time);' 'let before = sequence.entries().len();'
plant labels-too-early state/src/labels.rs 'row.time.plus(self.shown_within_ms).plus(window_ms)' 'row.time.plus(window_ms)'
plant labels-not-written-back state/src/partition/labels.rs 'resident.user.labels_dirty = true;' 'resident.user.labels_dirty |= resident.weight == 0;'
plant label-timers-not-restored state/src/partition/restore.rs 'self.expect_labels(place, row);' 'let _ = row;'
plant label-timers-not-read state/src/partition/labels.rs 'timers.set(user, due);' 'timers.set(user, due.filter(|_| user.is_empty()));'
plant labels-counted-by-arrival state/src/labels/attribution.rs 'by_item.sort_unstable();' ''
plant labels-not-corrected state/src/labels/attribution.rs '.is_none_or(|(_, other)| other != labels)' '.is_none()'
plant labels-released-again state/src/labels.rs 'row.released_ms = window;' 'row.released_ms = window.min(row.released_ms.max(0));'
plant impression-of-the-first-row state/src/labels.rs 'let (row, _) = rows.max_by_key(|(place, row)| (row.time, *place))?;' 'let (row, _) = rows.min_by_key(|(place, row)| (row.time, *place))?;'
plant layers-not-told-apart consumers/src/deepen.rs 'id: EncoderId(model.deep_id())' 'id: EncoderId([model.deep_id()[0] & 0; 16])'
plant canary-under-the-champions-name consumers/src/assemble/model.rs 'if self.is_canary {
            self.canary.as_ref()' 'if self.is_canary && self.champion.is_none() {
            self.canary.as_ref()'
plant texts-named-of-a-run-that-left consumers/src/assemble/runs.rs 'if !self.is_whole {' 'if false {'
exit $((missed > 0))
