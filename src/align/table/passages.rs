//! Fillings to read, calculate, record and translate. Towns, persons and firms are invented or named for their sound.

#![cfg_attr(rustfmt, rustfmt::skip)]

pub(super) const PERSON: &[&str] = &[
    "Amara", "Bruno", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hiro", "Ines", "Jonas", "Kavita", "Liam", "Mei", "Noor",
    "Olga", "Pablo", "Quentin", "Rosa", "Selma", "Tomas", "Uma", "Viktor", "Wanda", "Yusuf", "Zoe",
];
pub(super) const TOWN: &[&str] = &[
    "Almere", "Brindisi", "Cordoba", "Dundee", "Esbjerg", "Faro", "Gdansk", "Haifa", "Izmir", "Jena", "Kaunas", "Lille", "Malmo",
    "Narvik", "Oulu", "Porto", "Quimper", "Rostock", "Split", "Turku", "Udine", "Varna", "Zadar",
];
pub(super) const FEW: &[&str] = &["2", "3", "4", "5", "6", "7", "8", "9", "11", "12"];
pub(super) const TENS: &[&str] = &["14", "15", "18", "20", "24", "25", "30", "32", "36", "40", "45", "48", "55", "60", "64", "72", "80"];
pub(super) const HUNDREDS: &[&str] = &["120", "150", "180", "210", "240", "260", "300", "320", "360", "420", "450", "540", "640", "750"];
pub(super) const DAY: &[&str] = &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
pub(super) const MONTH: &[&str] = &["January", "March", "April", "May", "June", "August", "September", "October", "November"];
pub(super) const GOODS: &[&str] = &[
    "notebooks", "apples", "umbrellas", "candles", "chairs", "tickets", "pencils", "melons", "lamps", "blankets", "postcards", "jars of honey",
];
pub(super) const PASSAGE: &[&str] = &[
    "The ferry between $TOWN1 and $TOWN2 will not run next week. The operator said on $DAY1 that the engine of the older ship must be replaced after $TENS1 years of service. Buses will carry passengers around the bay instead, which takes about $FEW1 hours. Holders of monthly tickets get a quarter of the price back. $PERSON1, who commutes every day, said she would rather work from home than sit on a bus.",
    "$PERSON1 and $PERSON2 opened their repair café in $TOWN1 in $MONTH1 with $FEW1 borrowed tables. Every $DAY1, visitors bring toasters, radios and torn jackets, and volunteers help to mend them. In the first year $HUNDREDS1 objects were saved from the bin. The hardest part, says $PERSON2, is not the repairs but finding enough people who know about electronics. The city now pays the rent, and a second café will open in $TOWN2.",
    "A team from the university of $TOWN1 counted the swifts that nest in the old quarter. They found $HUNDREDS1 pairs, $TENS1 fewer than ten years ago. The scientists blame renovated roofs, which leave no gaps for nests. As a remedy they ask house owners to hang up nest boxes, which cost about $TENS2 euros each. $PERSON1, who leads the project, expects results after $FEW1 years.",
    "The museum of clocks in $TOWN1 has bought a tower clock from $TOWN2. The clock was built by a blacksmith named $PERSON1 and ran for more than $HUNDREDS1 years. Its wheels weigh $TENS1 kilograms. Restorer $PERSON2 took the mechanism apart, cleaned it, and replaced only $FEW1 pins. From $MONTH1 on visitors can watch it strike every full hour.",
    "To set up the weather station, choose a place at least $FEW1 metres away from walls. Push the pole $TENS1 centimetres into the ground and screw the rain gauge on top. Insert the batteries with the plus sign up; the light blinks twice when the station has found the receiver. If it blinks red, move the receiver closer. Clean the gauge every $MONTH1, because leaves block the funnel. The batteries last about $FEW2 months.",
    "Hello all, the room for our $DAY1 seminar has changed: we meet in building C, room $HUNDREDS1. $PERSON1 will present her measurements first, then $PERSON2 will talk about the trip to $TOWN1. Please send me your slides by $DAY2. We still need somebody who brings a projector cable. The joint dinner is moved to the week after, since $FEW1 of us are ill. Best wishes, $PERSON3",
    "Members may borrow up to $FEW1 tools at a time for $TENS1 days. Power tools must be reserved by telephone. A tool that comes back late costs one euro a day; a tool that comes back dirty costs $FEW2 euros. Damage must be reported at once, and is repaired at the association's expense unless it was caused on purpose. The store in $TOWN1 is open on $DAY1 and $DAY2 from four to seven.",
    "The village of $TOWN1 produces more electricity than it uses. $TENS1 of its farms carry solar panels, and $FEW1 wind turbines stand on the ridge. On sunny days in $MONTH1 the surplus is sold to $TOWN2. It took $PERSON1, the mayor, nearly a decade to convince everybody. The turning point came when the cooperative paid its first dividend: $HUNDREDS1 euros for each household.",
    "When $PERSON1 found the map, it was folded into a cookery book at a flea market in $TOWN1. It showed an island with $FEW1 wells and a single road. No atlas knew the island. $PERSON2, a retired sailor, believed that the mapmaker had drawn a dream. But the depths along the coast were exact, and they agreed with the sea near $TOWN2. So in $MONTH1 the two of them hired a boat.",
    "Our tomato trial had $TENS1 plants in $FEW1 beds. Bed one got only water, the others compost in different amounts. By the end of $MONTH1 the plants with most compost were the tallest, but they carried the fewest fruit. The best harvest, $HUNDREDS1 fruit, came from the bed with half as much. $PERSON1 suggests to repeat the trial with a later sowing, because the frost on a $DAY1 damaged one corner.",
    "Choir rehearsals begin again on $DAY1 at half past seven in the hall of the old school in $TOWN1. $PERSON1 takes over as conductor from $PERSON2, who moves to $TOWN2. We will sing $FEW1 new pieces, among them a lullaby from Georgia. New voices are welcome, above all tenors. The spring concert is planned for a Sunday in $MONTH1, and $HUNDREDS1 chairs have been ordered already.",
    "The new tram line links the main station of $TOWN1 with the hospital in $TENS1 minutes. It has $FEW1 stops and runs every $FEW2 minutes until midnight. In the first month $HUNDREDS1 thousand passengers used it, more than planned. Shopkeepers along the way complain about lost parking spaces. $PERSON1 of the transport office replies that most customers come on foot anyway.",
];
pub(super) const SUMMARY: &[&str] = &[
    "in one sentence", "in two sentences", "in three bullet points", "in four bullet points", "for a child", "in at most thirty words",
    "as a headline and one sentence", "as a short message to a friend", "in plain language", "as a table with two columns",
];
pub(super) const ASPECT: &[&str] = &[
    "when something happens", "how much something costs or how many there are", "who is responsible", "where it takes place", "what changes",
    "what went wrong", "what is planned next", "the reason for it", "a person's opinion", "a number",
];
pub(super) const PROBLEM: &[&str] = &[
    "A shop sells $GOODS1 for $FEW1 euros each and $GOODS2 for $TENS1 euros each. $PERSON1 buys $FEW2 of the first and $FEW3 of the second. How much does she pay, and how much change does she get from $HUNDREDS1 euros?",
    "A train travels $HUNDREDS1 kilometres in $FEW1 hours. How far does it get in $FEW2 hours at the same speed?",
    "$PERSON1 is $FEW1 years older than $PERSON2. Together they are $TENS1 years old. How old is each of them?",
    "A rectangle is $TENS1 cm long and $FEW1 cm wide. What are its area, its perimeter, and the length of its diagonal?",
    "$PERSON1 puts $HUNDREDS1 euros into an account with $FEW1 percent interest a year. How much is in it after $FEW2 years with compound interest?",
    "A jacket costs $HUNDREDS1 euros. It is reduced by $TENS1 percent, and then by another $FEW1 percent. What does it cost now?",
    "$FEW1 workers need $TENS1 days to build a wall. How many days would $FEW2 workers need?",
    "What is $HUNDREDS1 times $TENS1? Then divide the result by $FEW1.",
    "In a class of $TENS1 pupils, $FEW1 play chess, $FEW2 play football, and 2 play both. How many play neither?",
    "A bag holds $FEW1 red and $FEW2 blue marbles. Two are drawn without putting them back. What is the probability that both are red?",
    "Solve for x: $FEW1 x + $TENS1 = $HUNDREDS1.",
    "A pump fills a pool in $FEW1 hours, another one in $FEW2 hours. How long do both take together?",
    "The numbers are $FEW1, $TENS1, $TENS2, $FEW2 and $HUNDREDS1. What are their mean, their median and their range?",
    "$PERSON1 reads $TENS1 pages a day. Her book has $HUNDREDS1 pages, and she has read $FEW1 pages. On which day will she finish it?",
    "A recipe for $FEW1 people needs $HUNDREDS1 grams of rice and $TENS1 grams of lentils. How much of each do $FEW2 people need?",
    "A factory makes $HUNDREDS1 $GOODS1 a day, of which $FEW1 percent are faulty. How many good ones does it make in $TENS1 days?",
];
pub(super) const RECORDS: &[&str] = &[
    "$PERSON1 from $TOWN1 is $TENS1 and works as a nurse. $PERSON2 from $TOWN2 is $TENS2 and drives a tram. $PERSON3, $TENS3, teaches history in $TOWN3.",
    "Stock on $DAY1: $TENS1 $GOODS1 at $FEW1 euros, $TENS2 $GOODS2 at $FEW2 euros, and $HUNDREDS1 $GOODS3 at $FEW3 euros.",
    "$TOWN1: $TENS1 degrees, sunny, wind $FEW1 km/h. $TOWN2: $TENS2 degrees, cloudy, wind $FEW2 km/h. $TOWN3: $TENS3 degrees, rain, wind $TENS4 km/h.",
    "Flight one leaves $TOWN1 on $DAY1 at $FEW1:30 and lands in $TOWN2 after $FEW2 hours. Flight two leaves $TOWN2 on $DAY2 at $FEW3:15 and lands in $TOWN3 after $FEW4 hours.",
    "Results of the race in $TOWN1: first $PERSON1 in $TENS1 minutes, second $PERSON2 in $TENS2 minutes, third $PERSON3 in $TENS3 minutes; $PERSON4 gave up.",
    "Books lent: \"Winter Light\" to $PERSON1 until $MONTH1 $FEW1, \"The Salt Road\" to $PERSON2 until $MONTH2 $FEW2, \"Seven Bridges\" to $PERSON3 until $MONTH3 $FEW3.",
];
pub(super) const ENTITIES: &[&str] = &[
    "books", "users of a web shop", "recipes", "songs", "weather reports", "pets", "hotel bookings", "movies", "bicycles", "plants",
    "chess games", "invoices", "log entries", "countries", "sensor readings",
];
pub(super) const KEYS: &[&str] = &[
    "\"id\", \"name\" and \"price\"", "\"id\", \"name\", \"city\" and \"age\"", "\"title\", \"year\" and \"tags\"", "\"name\", \"count\" and \"unit\"",
    "\"id\", \"date\", \"status\" and \"notes\"", "\"name\", \"place\" and \"value\"", "\"id\", \"label\", \"active\" and \"created_at\"",
];
pub(super) const TONGUE: &[&str] = &["Spanish", "French", "German", "Italian", "Portuguese", "Dutch", "Polish", "Swedish"];
pub(super) const SENTENCE: &[&str] = &[
    "The library closes early on $DAY.", "Could you tell me the way to the station, please?", "My brother has lived in $TOWN for $FEW years.",
    "We forgot to water the plants before we left.", "It has been raining since $DAY, and the river is rising.", "I would like a table for $FEW people.",
    "She learned to ride a horse when she was a child.", "If the shop is closed, try the one across the street.", "The soup needs a little more salt.",
    "They are looking for a flat with a garden near $TOWN.", "$PERSON has lost her keys again.", "The meeting was moved to $DAY afternoon.",
    "He reads the newspaper every morning before work.", "Please do not feed the birds.", "How much are these $GOODS?", "The bridge was built in $FEW months.",
    "I have never seen so many stars.", "You should drink more water when it is hot.", "The last bus leaves at $FEW minutes past ten.",
    "Our neighbours invited us to dinner on $DAY.", "The children were so tired that they fell asleep in the car.", "I am allergic to nuts.",
    "Although it was cold, we swam in the lake.", "The film was better than the book.", "What would you do with a million euros?",
    "$PERSON and $PERSON are getting married in $MONTH.", "The doctor said that I should rest for $FEW days.", "Where did you buy that coat?",
];
