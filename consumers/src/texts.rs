//! What text stands for an item, and for a behavior: a template of the configuration, filled from records and from the item table.
//!
//! Before it, records are decoded and those of items are in the table; after it, the text's hash is what its vector is looked up by, and the text itself goes to whoever makes vectors.

use std::fmt::Write as _;

use headwater_config::{Field, Template};
use headwater_model::language::canonical;
use headwater_state::{Item, ItemTable, SlotId};

use crate::decode::DecodedBehavior;

/// The canonical text of an item; empty where the template finds nothing.
pub fn of_item(template: &Template, id: &str, item: &Item, table: &ItemTable) -> String {
    filled(template, |field, text| put(field, id, item, table, text))
}

/// The canonical text of a behavior of that kind in that scenario, `item` being the template of items; empty where the template finds nothing. Of an item
/// that is not known (yet) nothing but its id is found.
pub fn of_behavior(
    template: &Template,
    item: &Template,
    behavior: &DecodedBehavior<'_>,
    (kind, scenario): (&str, &str),
    table: &ItemTable,
) -> String {
    let id = behavior.item.as_deref();
    let known = id.and_then(|id| Some((id, table.item(id)?)));
    filled(template, |field, text| match field {
        Field::Kind => text.push_str(kind),
        Field::Scenario => text.push_str(scenario),
        Field::Value => {
            if let Some(value) = behavior.value {
                write!(text, "{}", value.get()).expect("invariant: a String takes any text");
            }
        }
        Field::Attribute(name) => {
            let slot = SlotId::of(name);
            let mut attributes = behavior.attributes.iter();
            if let Some((_, value)) = attributes.find(|(other, _)| *other == slot) {
                text.push_str(value);
            }
        }
        Field::Item => {
            if let Some((id, known)) = known {
                text.push_str(&of_item(item, id, known, table));
            }
        }
        Field::ItemId => text.push_str(id.unwrap_or_default()),
        Field::ItemCategories | Field::ItemField(_) => {
            if let Some((id, known)) = known {
                put(field, id, known, table, text);
            }
        }
    })
}

/// A filled template. What it says of everything says nothing: where no field is found there is no text.
fn filled(template: &Template, mut put: impl FnMut(&Field, &mut String)) -> String {
    let mut found = false;
    let text = template.fill(|field, text| {
        let before = text.len();
        put(field, text);
        found |= !text[before..].trim().is_empty();
    });
    if found {
        canonical(&text)
    } else {
        String::new()
    }
}

fn put(field: &Field, id: &str, item: &Item, table: &ItemTable, text: &mut String) {
    match field {
        Field::ItemId => text.push_str(id),
        Field::ItemCategories => {
            for (place, number) in item.categories.iter().enumerate() {
                text.push_str(if place > 0 { ", " } else { "" });
                text.push_str(table.category_name(*number));
            }
        }
        Field::ItemField(name) => match (item.fields.get(&**name), item.numeric.get(&**name)) {
            (Some(value), _) => text.push_str(value),
            (None, Some(number)) => {
                write!(text, "{number}").expect("invariant: a String takes any text");
            }
            (None, None) => {}
        },
        // The configuration refuses templates of items with these.
        Field::Kind | Field::Scenario | Field::Value | Field::Attribute(_) | Field::Item => {}
    }
}

#[cfg(test)]
mod tests {
    use headwater_config::Config;

    use crate::items::ItemMaker;

    use super::*;

    /// Goal: a text holds what its record says, tidied; an item of which the template finds nothing has none. Method: fields, a number, categories, and
    /// a record without any of them.
    #[test]
    fn an_item_is_told_by_its_record() {
        let toml = "[texts]\nencoder = \"x\"\nitem = \"Item: {item.title} ({item.year}), {item.categories}\"";
        let config = Config::from_toml(toml).unwrap();
        let (maker, mut table) = (ItemMaker::new(&config), ItemTable::default());
        let records = [
            r#"{"item_id":"a","time":1763892000000,"fields":{"title":"  The\tSea "},"numeric":{"year":1999},"categories":["b","a"]}"#,
            r#"{"item_id":"c","time":1763892000000,"fields":{"author":"X"}}"#,
        ];
        for record in records {
            let id = &record[12..13];
            let read = maker.read(id.as_bytes(), record.as_bytes(), -1).unwrap();
            assert!(maker.put(&mut table, &read, -1));
        }
        let text = |id| of_item(&config.texts.item, id, table.item(id).unwrap(), &table);
        assert_eq!(text("a"), "Item: The Sea (1999), b, a");
        assert!(table.item("a").unwrap().text.is_some());
        assert_eq!(text("c"), "");
        assert_eq!(table.item("c").unwrap().text, None);
    }
}
