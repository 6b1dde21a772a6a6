//! Settings that are one word out of a few.
//!
//! Before it, `decode` hands over text; after it, a section holds an enum. One macro makes the enum, its words and its
//! reading, so that a word cannot be written in one way and read in another.

/// An enum whose values are the words given: `FromStr`-like reading by serde, `as_str`, `Display` and `ALL`.
macro_rules! choice {
    (
        $(#[$attribute:meta])*
        $name:ident { $( $(#[$variant_attribute:meta])* $variant:ident = $word:literal, )+ }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $( $(#[$variant_attribute])* $variant, )+
        }

        impl $name {
            /// Every choice, in the order of their description.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )+];

            /// The word that stands for it in a configuration.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Words;
                impl serde::de::Visitor<'_> for Words {
                    type Value = $name;

                    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        formatter.write_str("a word in quotes, one of ")?;
                        formatter.write_str([$( concat!("\"", $word, "\"") ),+].join(", ").as_str())
                    }

                    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<$name, E> {
                        match word {
                            $( $word => Ok($name::$variant), )+
                            _ => Err(E::unknown_variant(word, &[$( $word ),+])),
                        }
                    }
                }
                deserializer.deserialize_str(Words)
            }
        }
    };
}

pub(crate) use choice;
