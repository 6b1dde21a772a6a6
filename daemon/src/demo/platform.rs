//! A small platform whose users have hidden tastes. What they click follows from taste, quality and position alone, never from a score.
//!
//! Before it, a seed; after it, [`super::visits`]: who comes, and what they do.

/// A generator that gives the same numbers everywhere (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

/// What numbers are drawn for. Each has numbers of its own, so that one more of the one changes nothing of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Tastes of the users and items that are there at first.
    Platform,
    /// Items that come later, by number.
    Items,
    /// Who asks, and for what, by visit.
    Visits,
    /// Random orders, by visit.
    Order,
    /// What is clicked, by visit.
    Clicks,
    /// Tastes after a drift, by drift.
    Drift,
}

impl Random {
    /// The numbers of one thing of a stream.
    #[must_use]
    pub fn of(seed: u64, stream: Stream, number: u64) -> Self {
        let seed = Self(seed).bits();
        let stream = Self(seed ^ stream as u64).bits();
        Self(Self(stream ^ number).bits())
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in [0, bound).
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound.max(1) as u64) as usize
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, mean 0 and variance 1: twelve uniform numbers.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// What items of each category are called by, where they have titles.
const WORDS: [[&str; 8]; CATEGORIES] = [
    [
        "tulips",
        "compost",
        "orchard",
        "seedlings",
        "hedges",
        "roses",
        "greenhouse",
        "lawn",
    ],
    [
        "saxophone",
        "quartet",
        "improvisation",
        "swing",
        "trumpet",
        "ballads",
        "drummer",
        "bebop",
    ],
    [
        "goalkeeper",
        "penalty",
        "midfield",
        "stadium",
        "derby",
        "striker",
        "league",
        "referee",
    ],
    [
        "dumplings",
        "sourdough",
        "stew",
        "pastry",
        "spices",
        "noodles",
        "oven",
        "marinade",
    ],
    [
        "nebula",
        "telescope",
        "orbit",
        "galaxy",
        "eclipse",
        "comet",
        "planet",
        "supernova",
    ],
    [
        "detective",
        "alibi",
        "murder",
        "inspector",
        "clue",
        "suspect",
        "trial",
        "heist",
    ],
    [
        "glacier",
        "summit",
        "ridge",
        "climbing",
        "avalanche",
        "trail",
        "tent",
        "alpine",
    ],
    [
        "dividends",
        "inflation",
        "bonds",
        "mortgage",
        "savings",
        "broker",
        "portfolio",
        "taxes",
    ],
    [
        "kittens",
        "puppies",
        "terrier",
        "aquarium",
        "parrot",
        "veterinarian",
        "leash",
        "hamster",
    ],
    [
        "cathedral",
        "facade",
        "concrete",
        "skyscraper",
        "blueprint",
        "arches",
        "plaza",
        "bridge",
    ],
    [
        "compiler",
        "database",
        "algorithm",
        "server",
        "keyboard",
        "encryption",
        "software",
        "robot",
    ],
    [
        "watercolor",
        "portrait",
        "sculpture",
        "gallery",
        "canvas",
        "sketch",
        "fresco",
        "easel",
    ],
];

const CATEGORIES: usize = 12;
const LATENT: usize = 6;
type Taste = [f64; LATENT];

fn taste(random: &mut Random) -> Taste {
    std::array::from_fn(|_| random.normal())
}

/// Users and items with hidden tastes.
#[derive(Debug)]
pub struct Platform {
    users: Vec<Taste>,
    items: Vec<Item>,
    centers: Vec<Taste>,
}

/// An item: its taste, its quality, its category, and the words of its title.
#[derive(Debug)]
struct Item {
    taste: Taste,
    quality: f64,
    category: usize,
    words: [usize; 3],
}

impl Platform {
    /// A platform of so many users and items.
    #[must_use]
    pub fn new(users: usize, items: usize, random: &mut Random) -> Self {
        let centers = (0..CATEGORIES).map(|_| taste(random)).collect();
        let mut platform = Self {
            users: Vec::new(),
            items: Vec::new(),
            centers,
        };
        for _ in 0..items {
            platform.add_item(random);
        }
        platform.users = (0..users).map(|_| taste(random)).collect();
        platform
    }

    /// Another item comes; gives its number.
    pub fn add_item(&mut self, random: &mut Random) -> usize {
        let category = random.below(CATEGORIES);
        let center = self.centers[category];
        let taste = std::array::from_fn(|at| 0.8 * center[at] + 0.6 * random.normal());
        let quality = 0.7 * random.normal();
        let words = std::array::from_fn(|_| random.below(WORDS[category].len()));
        self.items.push(Item {
            taste,
            quality,
            category,
            words,
        });
        self.items.len() - 1
    }

    /// What an item is called: words of its category.
    #[must_use]
    pub fn title(&self, item: usize) -> String {
        let Item {
            category, words, ..
        } = &self.items[item];
        let [one, two, three] = words.map(|word| WORDS[*category][word]);
        format!("{one} and {two}: a guide to {three}, part {item}")
    }

    /// How many users.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// How many items.
    #[must_use]
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// The category of an item, which everybody can see.
    #[must_use]
    pub fn category(&self, item: usize) -> usize {
        self.items[item].category
    }

    /// How likely the user clicks the item in that position, from 0 on.
    #[must_use]
    pub fn likes(&self, user: usize, item: usize, position: usize) -> f64 {
        let Item { taste, quality, .. } = &self.items[item];
        let fit: f64 = self.users[user]
            .iter()
            .zip(taste)
            .map(|(a, b)| a * b)
            .sum::<f64>()
            / (LATENT as f64).sqrt();
        let likes = 1.0 / (1.0 + (-(fit + quality - 2.0)).exp());
        likes / (1.0 + 0.1 * position as f64)
    }

    /// Every user's tastes are drawn anew. Items stay what they are.
    pub fn drift(&mut self, random: &mut Random) {
        for user in &mut self.users {
            *user = taste(random);
        }
    }
}
