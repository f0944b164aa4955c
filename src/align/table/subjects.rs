//! Fillings about everyday subjects.

#![cfg_attr(rustfmt, rustfmt::skip)]

pub(super) const CONCEPT: &[&str] = &[
    "how vaccines work", "compound interest", "photosynthesis", "why the sky is blue", "plate tectonics", "inflation",
    "how a refrigerator cools", "black holes", "supply and demand", "the greenhouse effect", "natural selection",
    "how the internet moves data", "public-key cryptography", "machine learning", "neural networks", "blockchains",
    "how search engines rank pages", "recursion", "what an operating system does", "version control", "unit testing",
    "object-oriented programming", "functional programming", "databases and indexes", "caching", "load balancing",
    "the difference between weather and climate", "how batteries store energy", "how solar panels work", "tides",
    "the water cycle", "how the heart works", "sleep cycles", "why we dream", "how memory works", "the placebo effect",
    "opportunity cost", "how mortgages work", "what a stock market is", "insurance", "taxes and what they pay for",
    "the scientific method", "statistics and probability", "correlation and causation", "prime numbers", "infinity",
    "the theory of relativity", "quantum computing", "gravity", "magnetism", "sound waves", "how lenses work",
    "how airplanes fly", "how GPS finds a position", "how a car engine works", "nuclear fusion", "carbon dating",
    "the immune system", "antibiotic resistance", "DNA and genes", "the digestive system", "vitamins", "fermentation",
    "the causes of the First World War", "the Industrial Revolution", "the Renaissance", "the Roman Republic",
    "democracy and its institutions", "the separation of powers", "human rights", "copyright", "open-source licences",
    "stoicism", "utilitarianism", "confirmation bias", "emotional intelligence", "the bystander effect", "mindfulness",
    "perspective in painting", "rhythm and meter in music", "how novels are structured", "what makes a good photograph",
    "how languages change over time", "why languages borrow words", "how chess engines choose a move", "big-O notation",
];
pub(super) const AUDIENCE: &[&str] = &[
    "a child of eight", "a high school student", "my grandparents", "a beginner", "an engineer from another field",
    "someone who is short of time", "a small business owner", "a group of teachers", "a student before an exam",
    "a family with small children",
];
pub(super) const LENGTH: &[&str] = &[
    "one paragraph", "three sentences", "five bullet points", "about a hundred words", "two short paragraphs",
    "simple words with an everyday example", "a numbered list", "a question-and-answer format",
];
pub(super) const ACTIVITY: &[&str] = &[
    "learning a foreign language", "running a first half marathon", "growing vegetables on a balcony", "saving money",
    "learning to play the guitar", "working from home", "public speaking", "writing a novel", "learning to program",
    "meditation", "keeping a budget", "buying a used car", "learning to swim as an adult", "hiking in the mountains",
    "travelling alone", "camping with children", "keeping houseplants alive", "raising a puppy", "cooking for one",
    "eating less sugar", "sleeping better", "strength training at home", "cycling to work", "moving to another country",
    "preparing for a job interview", "negotiating a salary", "managing a small team", "running a book club",
    "organizing a neighbourhood party", "learning to draw", "starting a podcast", "starting a small online shop",
    "repairing clothes", "reducing household waste", "learning touch typing", "studying for exams", "time management",
    "keeping a journal", "learning chess", "bird watching", "taking better notes", "backing up a computer",
    "choosing strong passwords", "cleaning up a cluttered house", "volunteering", "teaching a child to read",
    "planning a long train journey", "making compost", "knitting a first scarf", "fixing a dripping tap",
];
pub(super) const COUNT: &[&str] = &["three", "four", "five", "six", "seven", "eight", "ten"];
pub(super) const HOURS: &[&str] = &["two", "three", "four", "five", "six"];
pub(super) const PAIR: &[&str] = &[
    "Python and JavaScript", "Rust and C++", "SQL and NoSQL databases", "electric cars and hybrid cars", "tea and coffee",
    "renting and buying a home", "trains and planes for trips within Europe", "cats and dogs as pets", "Linux and Windows",
    "paper books and e-readers", "public and private transport", "freelancing and a permanent job", "gas and induction cookers",
    "threads and processes", "TCP and UDP", "REST and GraphQL", "compilers and interpreters", "arrays and linked lists",
    "monoliths and microservices", "unit tests and integration tests", "static and dynamic typing", "yoga and weight lifting",
    "city life and country life", "classical and jazz music", "film and digital photography", "solar and wind power",
    "stocks and bonds", "butter and olive oil", "swimming and running", "tents and camper vans", "tabs and spaces",
];
pub(super) const SITUATION: &[&str] = &[
    "My neighbour plays loud music late at night.", "I keep postponing important work until the last moment.",
    "My laptop has become very slow over the past year.", "I want to change careers at forty.",
    "Two people in my team do not talk to each other any more.", "I have to give a speech at a friend's wedding.",
    "My teenage son spends all evening on his phone.", "I am moving to a much smaller flat next month.",
    "I have been offered two jobs at the same time.", "My houseplants keep dying.", "I cannot fall asleep before midnight.",
    "My manager changes priorities every week.", "I would like to learn to cook, but I have no time.",
    "I lost all the contacts on my phone.", "My best friend forgot my birthday.", "I want to read more books this year.",
    "Our club has lost half of its members.", "I have to train for a charity run in eight weeks.",
    "My bicycle chain keeps slipping.", "A customer asked for a refund that our rules do not allow.",
    "I must explain a technical project to people without any technical background.", "Our website is slow on phones.",
    "I am travelling to Japan for the first time, for ten days.", "My dog barks whenever it is alone.",
    "I have inherited a small garden that is completely overgrown.", "I need to save for a trip within six months.",
    "My handwriting is hard to read.", "I always forget the names of people I meet.", "Our meetings take too long.",
    "I would like to eat healthier at the office.", "My old car failed its inspection.", "My daughter is afraid of exams.",
];
pub(super) const WRITING: &[&str] = &[
    "a haiku", "a short poem with four stanzas", "a short story of about 200 words", "a limerick", "a fairy tale opening",
    "a dialogue between two strangers", "a product description", "a short speech", "a news report", "a blog post introduction",
    "a diary entry", "a letter to a friend", "a riddle with its answer", "a funny advertisement", "a children's story",
];
pub(super) const THING: &[&str] = &[
    "an old lighthouse", "a robot that is afraid of the dark", "the first snow", "a lost umbrella", "the ocean", "a clock tower",
    "honey bees", "the bicycle", "chocolate", "a forgotten railway station", "paper", "the piano", "volcanoes", "octopuses",
    "a river in spring", "a cat who runs a library", "the moon", "a market at dawn", "glass", "the compass", "silk", "salt",
    "a dragon who collects teacups", "penguins", "a mountain village", "the printing press", "a storm at sea", "coral reefs",
    "bamboo", "a broken violin", "the telescope", "a time machine in a garage", "autumn leaves", "tea", "hot-air balloons",
    "a hidden garden", "the potato", "migrating birds", "an island nobody has mapped", "the pencil", "rain", "a fox in the city",
];
pub(super) const TONE: &[&str] = &["friendly", "formal", "short and polite", "firm but polite", "cheerful", "apologetic"];
pub(super) const RECIPIENT: &[&str] = &[
    "my manager", "a supplier", "all colleagues", "my child's teacher", "the building management", "a former classmate",
    "a customer", "the city council", "a hotel", "an insurance company", "my landlady", "a job applicant", "a professor",
];
pub(super) const MATTER: &[&str] = &[
    "asking for a day off", "about a late delivery", "to cancel a subscription", "to move a meeting to next week",
    "asking for a letter of recommendation", "about a mistake in an invoice", "to say thank you for a great event",
    "asking for a quotation", "to report a broken heating", "about a lost suitcase", "to decline an invitation",
    "to introduce a new member of the team", "asking for more time to finish a report", "to confirm a reservation",
    "about noise from a building site", "to propose a shared lunch every month",
];
pub(super) const SPAN: &[&str] = &["two-week", "four-week", "three-month", "one-day", "weekend", "seven-day"];
pub(super) const CLAIM: &[&str] = &[
    "humans use only ten percent of their brains", "goldfish have a memory of three seconds", "cold weather makes people ill",
    "lightning never strikes the same place twice", "the Great Wall can be seen from the Moon", "bats are blind",
    "reading in dim light ruins the eyes", "sugar makes children hyperactive", "bananas grow on trees",
    "Einstein was bad at mathematics as a child", "charging a phone overnight destroys its battery",
    "we swallow spiders in our sleep", "water drains the other way round south of the equator", "coffee stunts growth",
    "dogs see only in black and white", "an apple a day keeps the doctor away", "the tongue has separate areas for tastes",
    "cracking your knuckles causes arthritis", "shaving makes hair grow back thicker", "glass is a slow-flowing liquid",
];
pub(super) const OCCASION: &[&str] = &[
    "a birthday party for a ten-year-old", "a rainy Sunday at home", "a team outing on a small budget", "a vegetarian picnic",
    "a retirement gift", "names for a coffee shop", "a school science project", "a winter evening with friends",
    "a quick dinner with eggs and vegetables", "a talk about climate change", "icebreakers for a workshop", "a first date",
    "a weekend in a big city with children", "a handmade gift", "a science fiction plot", "a blog about cooking",
    "side projects to learn web development", "a healthy breakfast", "a family game night", "a small balcony garden",
];
pub(super) const DECISION: &[&str] = &[
    "adopting a cat", "signing a work contract", "buying a second-hand bicycle", "choosing a university course",
    "moving in with a friend", "lending money to a relative", "hiring a contractor", "choosing a web framework",
    "starting a company with a friend", "buying travel insurance", "changing doctors", "joining a gym",
];
