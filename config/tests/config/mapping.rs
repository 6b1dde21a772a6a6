//! A stranger's topic, described by configuration alone.

use headwater_config::{Base, Config, OnUnmappedKind, TimeFormat};

use crate::complaint;

/// Goal: a mapping with everything in it is read. Method: nesting, an array of events, numeric kinds, constants.
#[test]
fn a_whole_mapping_is_read() {
    let config = Config::from_toml(
        "[source.behaviors]\nmapped = true\nevents = \"/batch/events\"\nuser_id = \"^/session/user\"\nitem_id = \"/object/id\"\n\
         kind = \"/action/code\"\ntime = \"/at\"\ntime_format = \"microseconds\"\non_unmapped_kind = \"skip\"\nrepartition = true\n\
         [source.behaviors.attributes]\nauthor = \"/object/author/id\"\n[source.behaviors.kinds]\n42 = \"click\"\n\"7\" = \"impression\"\n\
         [source.behaviors.constant]\nscenario = \"feed\"\n",
    )
    .unwrap();
    let source = &config.source.behaviors;
    assert!(source.mapped && source.repartition);
    assert_eq!(
        source.events.as_ref().unwrap().tokens(),
        ["batch", "events"]
    );
    let user = source.user_id.as_ref().unwrap();
    assert_eq!(
        (user.base(), user.tokens()),
        (Base::Record, &["session".to_owned(), "user".to_owned()][..])
    );
    assert_eq!(source.item_id.as_ref().unwrap().base(), Base::Event);
    assert_eq!(source.time_format, TimeFormat::Microseconds);
    assert_eq!(source.on_unmapped_kind, OnUnmappedKind::Skip);
    assert_eq!(source.kinds["42"], "click");
    assert_eq!(source.attributes["author"].to_string(), "/object/author/id");
    assert_eq!(source.constant.scenario.as_deref(), Some("feed"));
    assert_eq!(source.constant.kind, None);
    assert_eq!(source.query, None);
}

/// Goal: a mapping that cannot find what every behavior has is refused, and one that is not turned on too. Method: golden.
#[test]
fn half_a_mapping_is_refused() {
    assert_eq!(
        complaint("[source.behaviors]\nmapped = true\nuser_id = \"/u\"\n"),
        "source.behaviors.mapped (line 2): a mapped topic needs a pointer to `time`\n\
         source.behaviors.mapped (line 2): a mapped topic needs a pointer to `kind`, or `constant.kind`\n\
         source.behaviors.mapped (line 2): a mapped topic needs a pointer to `scenario`, or `constant.scenario`"
    );
    assert_eq!(
        complaint("[source.behaviors]\nuser_id = \"/u\"\n[source.behaviors.kinds]\n1 = \"tap\"\n"),
        "source.behaviors.kinds (line 3): `kinds` is set, but source.behaviors.mapped is false\n\
         source.behaviors.kinds.1 (line 4): kind \"tap\" is not in kinds.names\n\
         source.behaviors.user_id (line 2): `user_id` is set, but source.behaviors.mapped is false"
    );
    assert_eq!(
        complaint("[source.behaviors]\nrepartition = true\n"),
        "nothing is wrong"
    );
    assert_eq!(
        complaint("[log]\nkind = \"embedded\"\n[source.behaviors]\nrepartition = true\n"),
        "source.behaviors.repartition (line 4): the embedded log has no source that is not keyed by user"
    );
    assert_eq!(
        complaint(
            "[source.behaviors]\nmapped = true\nuser_id = \"/u\"\ntime = \"/t\"\nconstant = { kind = \"tap\", scenario = \"f\" }\nattributes = { a = \"\" }\n"
        ),
        "source.behaviors.attributes.a (line 6): it is empty: a JSON pointer is wanted, such as \"/user/id\"\n\
         source.behaviors.constant.kind (line 5): kind \"tap\" is not in kinds.names"
    );
}
