//! Several trials at a time: challengers beside each other, and the baseline beside a trained champion.

use super::*;

/// Goal: where a model is worse than none, and so is who was champion before it, the baseline comes back by itself, and takes no challenger's place meanwhile; where there are as many rows as are looked at, what is seen from then on counts.
/// Method: two models that say too little, the better one over the other; then a world in which a look at few rows says nothing more.
#[test]
fn the_baseline_comes_back() {
    let mut world = World::new("");
    world.promote(-2.0);
    let champion = world.promote(-1.0);
    let standing = world.turn().0;
    let challengers = standing.challengers.iter().map(|trial| &trial.model);
    assert_eq!(challengers.collect::<Vec<_>>(), [&None]);
    assert_eq!(
        standing.furthest(),
        None,
        "nothing that was learned is on trial"
    );
    for adds in [0.1, 0.2, 0.3] {
        assert!(world.turn().0.has_room());
        world.try_it(adds);
    }
    assert!(!world.turn().0.has_room());
    world.live(600, [0.0; 2]);
    let (standing, outcomes) = world.turn();
    assert!(
        outcomes.contains(&(Seat::Challenger, Outcome::Promoted)),
        "{outcomes:?}"
    );
    let announced = standing.announced.unwrap();
    assert_eq!(
        (announced.champion, announced.former),
        (None, Some(champion))
    );
    assert_eq!(announced.cause, Some(champion::Cause::ProvedItself));
    assert!(
        standing
            .challengers
            .iter()
            .all(|trial| trial.model.is_some())
    );

    let mut world = World::new("train.rows_min = 100\ntrain.rows_max = 500");
    world.promote(0.01);
    world.turn();
    world.live(300, [0.0; 2]);
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        outcomes.extend(world.turn().1);
    }
    assert_eq!(outcomes, [(Seat::Former, Outcome::BegunAnew)]);
}

/// Goal: where all places are taken, the challenger of which enough is known and that is better by the fewest errors makes room, and never one that has proved itself; such a one waits while another scores some users; beside another
/// champion all begin anew. Method: looks written down for challengers that are put on trial one after the other; who is there, and what becomes of them.
#[test]
fn challengers_stand_beside_each_other() {
    let mut world = World::new("train.canary_for = '1h'");
    let on_trial = |world: &mut World| -> Vec<Named> {
        let challengers = world.turn().0.challengers.into_iter();
        challengers.map(|trial| trial.model.unwrap()).collect()
    };
    let try_it = |world: &World, adds: f32| {
        // By the time of their beginning they are told apart.
        std::thread::sleep(std::time::Duration::from_millis(2));
        world.try_it(adds)
    };
    let looked = |world: &World, model: &Named, looks: usize, z: f64, outcome: Option<Outcome>| {
        let standing = champion::standing(&world.config, &*world.log).unwrap();
        let held = standing.of_seat(Seat::Challenger, Some(model)).unwrap();
        let mut seen = held.clone();
        for number in 0..looks {
            let all = champion::Seen {
                rows: 200 << number,
                users: 80,
                losses: [0.5; 2],
                z,
            };
            let outcome = outcome.filter(|_| number + 1 == looks);
            seen.looks.push(Look {
                time: unix_ms(),
                all,
                random: all,
                outcome,
            });
        }
        let of = (Seat::Challenger, held);
        assert!(champion::note(&world.config, &*world.log, of, Some(&seen)).unwrap());
    };
    let [one, two, three] = [0.1, 0.2, 0.3].map(|adds| try_it(&world, adds));
    assert_eq!(
        on_trial(&mut world),
        [one.clone(), two.clone(), three.clone()]
    );
    looked(&world, &two, 3, 1.5, None);
    looked(&world, &three, 2, -3.0, None);
    looked(&world, &one, 2, 0.5, None);
    assert!(world.turn().0.has_room(), "enough is known of one");
    // Of the same model there is one trial.
    try_it(&world, 0.2);
    assert_eq!(on_trial(&mut world).len(), 3);
    assert!(
        !world.turn().0.has_room(),
        "nothing is known of it any more"
    );
    looked(&world, &two, 3, 1.5, None);
    looked(&world, &one, 1, 0.5, None);
    let four = try_it(&world, 0.4);
    assert_eq!(
        on_trial(&mut world),
        [three.clone(), two.clone(), four.clone()],
        "three was looked at twice"
    );

    let proved = Some(Outcome::Canary);
    looked(&world, &two, 1, 4.0, proved);
    assert_eq!(world.turn().1, [(Seat::Challenger, Outcome::Canary)]);
    looked(&world, &three, 1, 4.0, proved);
    for _ in 0..2 {
        let (standing, outcomes) = world.turn();
        assert!(outcomes.is_empty(), "it waits");
        let canaries = standing
            .challengers
            .iter()
            .filter(|trial| trial.canary.is_some());
        let canaries: Vec<_> = canaries.map(|trial| trial.model.clone()).collect();
        assert_eq!(canaries, [Some(two.clone())]);
    }
    looked(&world, &four, 3, 9.0, None);
    let five = try_it(&world, 0.5);
    assert_eq!(
        on_trial(&mut world),
        [three.clone(), two.clone(), five.clone()]
    );
    // By command a place is found, but not that of who scores some users.
    looked(&world, &five, 3, 4.0, proved);
    assert!(!world.turn().0.has_room());
    let six = try_it(&world, 0.6);
    assert_eq!(
        on_trial(&mut world),
        [three.clone(), two.clone(), six.clone()]
    );

    let champion = world.promote(0.3);
    assert_eq!(champion, three);
    let standing = world.turn().0;
    assert!(!standing.has_canary());
    let anew = standing.challengers.iter();
    let anew: Vec<_> = anew
        .map(|trial| {
            (
                trial.model.clone(),
                trial.champion.clone(),
                trial.looks.len(),
            )
        })
        .collect();
    let beside = |model: &Named| (Some(model.clone()), Some(champion.clone()), 0);
    assert_eq!(anew.len(), 2);
    assert!(
        anew.contains(&beside(&two)) && anew.contains(&beside(&six)),
        "{anew:?}"
    );
}
