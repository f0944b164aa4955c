//! Fillings about programming.

#![cfg_attr(rustfmt, rustfmt::skip)]

pub(super) const LANGUAGE: &[&str] = &[
    "Python", "Python", "Python", "JavaScript", "JavaScript", "TypeScript", "Rust", "Rust", "Go", "Java", "C", "C++", "C#",
    "Kotlin", "Swift", "Ruby", "PHP", "Bash", "Haskell", "Scala", "Lua",
];
pub(super) const FUNCTION: &[&str] = &[
    "checks whether a string is a palindrome, ignoring case and spaces", "returns the n-th Fibonacci number without recursion",
    "computes the greatest common divisor of two integers", "returns all prime numbers below n with a sieve",
    "reverses the words of a sentence", "finds the two numbers in a list that add up to a target", "sorts a list with merge sort",
    "searches a sorted array with binary search", "counts the vowels in a text", "flattens a nested list",
    "removes duplicates from a list and keeps the order", "checks whether two strings are anagrams", "rotates a matrix by 90 degrees",
    "converts a Roman numeral to an integer", "converts an integer to a Roman numeral", "checks whether brackets are balanced",
    "computes the Levenshtein distance of two strings", "returns the longest common prefix of a list of strings",
    "multiplies two matrices", "transposes a matrix", "computes the median of a list of numbers", "parses a CSV line with quoted fields",
    "validates an e-mail address", "validates a credit card number with the Luhn algorithm", "encodes a text with run-length encoding",
    "decodes a run-length encoded text", "encrypts a text with the Caesar cipher", "generates all permutations of a list",
    "generates all subsets of a set", "solves the N queens problem", "computes the power of a number by repeated squaring",
    "converts a temperature between Celsius and Fahrenheit", "formats a number of seconds as hours, minutes and seconds",
    "formats a byte count for people, as in 1.5 MB", "returns the day of the week for a date", "tells whether a year is a leap year",
    "finds the shortest path in a grid with breadth-first search", "computes shortest paths with Dijkstra's algorithm",
    "detects a cycle in a linked list", "reverses a linked list", "inserts a value into a binary search tree",
    "returns the depth of a binary tree", "traverses a binary tree level by level", "sorts an array of objects by two keys",
    "groups a list of records by a key", "merges two dictionaries and adds up common keys", "splits a list into chunks of size n",
    "finds the most frequent element of a list", "returns the moving average of a list", "computes the dot product of two vectors",
    "draws a random sample without replacement", "shuffles an array in place", "wraps a text at a given width",
    "turns a title into a URL slug", "counts the lines of a file", "reads a JSON file and returns one field of every object",
    "downloads a URL with a timeout and retries", "checks whether a point lies inside a polygon", "converts a hex colour to RGB",
    "evaluates an arithmetic expression with parentheses", "finds the missing number in a list from 1 to n",
    "returns the k largest numbers of a list", "finds the longest increasing subsequence", "solves the knapsack problem",
    "checks whether a Sudoku grid is valid", "simulates one step of Conway's Game of Life", "converts a number to binary",
    "computes the factorial of a number", "sums the digits of a number", "compares two version numbers such as 1.10.2 and 1.9",
    "masks all but the last four digits of a card number", "parses a query string into a dictionary",
];
pub(super) const FUNCTIONS: &[&str] = &[
    "write a function that limits how often another function is called.", "write a function that caches the results of another one.",
    "write two functions that serialize and parse a tree.", "write functions to encode and decode Base64 by hand.",
    "write a function that retries an operation with growing delays.", "write a generator of the Collatz sequence.",
    "write functions for a stack-based calculator.", "write a function that compares two lists and reports the differences.",
    "write a function that renders a table of strings with aligned columns.", "write a tokenizer for arithmetic expressions.",
    "write a function that reads settings from environment variables with defaults.", "write a timer that measures a block of code.",
];
pub(super) const EXTRA: &[&str] = &[
    "Add comments.", "Add tests.", "Explain the time complexity.", "Handle invalid input.", "Keep it short.", "Show an example call.",
    "Do not use any library.", "Use descriptive names.", "Return an error instead of throwing.", "Include documentation comments.",
    "Explain each step.", "Give two versions, a simple one and a fast one.",
];
pub(super) const PROGRAM: &[&str] = &[
    "plays a number guessing game", "keeps a to-do list in a file", "prints a multiplication table", "converts between currencies",
    "prints a calendar of a month", "generates random passwords", "counts down from a given number of minutes", "plays hangman",
    "renames files by a pattern", "finds duplicate files by their hash", "prints the largest files below a folder", "plays tic-tac-toe",
    "takes numbers from standard input and prints their mean and standard deviation", "draws a bar chart of numbers with asterisks",
    "converts Markdown headings to HTML", "splits a restaurant bill", "checks which of a list of web sites can be reached",
    "simulates rolling dice and prints a histogram", "is a simple HTTP server that answers with the current time", "tails a log file",
    "translates text to Morse code", "manages contacts with add, list and delete", "rolls a maze and prints it", "prints a file as hex",
    "computes a loan's repayment plan", "watches a folder for changes", "sorts the lines of a file", "is a client and a server for chat",
    "scrapes all links of a web page", "validates a JSON file and says where it is wrong", "quizzes the user about capitals",
];
pub(super) const STRUCTURE: &[&str] = &[
    "a stack", "a queue with a fixed capacity", "a linked list", "a binary search tree", "a min-heap", "a hash map with chaining",
    "a trie", "an LRU cache", "a graph with adjacency lists", "a ring buffer", "a priority queue", "a bank account class",
    "a matrix class", "a fraction type", "a 2D vector type", "an event emitter", "a simple state machine", "a disjoint-set",
    "a shopping cart class", "a thread-safe counter", "a rate limiter", "a parking lot model", "a deck of cards", "a bloom filter",
];
pub(super) const METHODS: &[&str] = &[
    "add, remove and list its elements", "insert, look up and delete", "push, pop and peek", "create it, print it and compare two of them",
    "iterate over it and count its elements", "save it to a file and load it again", "add, find and update elements",
];
pub(super) const TASK: &[&str] = &[
    "read a file line by line", "parse command line arguments", "handle errors", "make an HTTP request", "sort a list of objects",
    "use a dictionary or map", "write a class with inheritance", "format strings", "work with dates", "run code in parallel",
    "connect to a database", "write and run unit tests", "read and write JSON", "use regular expressions", "filter and map a list",
    "start another program and read its output", "log messages with levels", "define an enumeration", "use generics or templates",
    "copy an object deeply", "round numbers", "generate random numbers with a seed", "measure time", "split and join strings",
];
pub(super) const QUERY: &[&str] = &[
    "lists the five best customers by revenue", "finds customers who never ordered anything", "shows the monthly revenue of the last year",
    "finds duplicate e-mail addresses", "lists each product with its number of sales", "returns the second highest price",
    "shows the average order value per country", "finds products that were never sold", "ranks customers within each country",
    "lists orders of the last thirty days with the customer's name", "computes a running total of revenue by day",
];
pub(super) const SCHEMA: &[&str] = &[
    "customers(id, name, email, country), orders(id, customer_id, product_id, created_at, amount), products(id, title, price)",
    "clients(client_id, full_name, email, country), sales(sale_id, client_id, item_id, sold_on, total), items(item_id, label, price)",
];
pub(super) const PATTERN: &[&str] = &[
    "a date such as 2024-03-09", "an IPv4 address", "a hexadecimal colour", "a German postal code", "a time such as 23:59",
    "a floating point number with an optional exponent", "an HTML tag with attributes", "a file name ending in .jpg or .png",
    "a user name of 3 to 16 letters, digits and underscores", "a phone number with a country code", "a quoted string with escapes",
];
pub(super) const CHANGE: &[&str] = &[
    "Rename the variables so that their names say what they hold.", "Add a documentation comment to every function.",
    "Add checks for invalid arguments.", "Add type annotations where the language has them.", "Split the longest function in two.",
    "Replace the loop by a more idiomatic construct.", "Make the constants configurable.", "Add logging of every call.",
    "Find the bug, if there is one, and fix it.", "Make it handle empty input.", "Add a main function that shows how it is used.",
    "Make the output easier to read.", "Remove all repetition.", "Use early returns instead of nested conditions.",
];
pub(super) const SNIPPET: &[&str] = &[
    "```python\ndef stats(xs):\n    n = len(xs)\n    m = sum(xs) / n\n    v = sum((x - m) ** 2 for x in xs) / n\n    return m, v ** 0.5\n\n\ndef report(rows):\n    for name, xs in rows.items():\n        m, s = stats(xs)\n        print(name + \": \" + str(round(m, 2)) + \" +- \" + str(round(s, 2)))\n```",
    "```python\nclass Timer:\n    def __init__(self, name):\n        self.name = name\n        self.laps = []\n\n    def lap(self, seconds):\n        self.laps.append(seconds)\n\n    def best(self):\n        b = self.laps[0]\n        for s in self.laps:\n            if s < b:\n                b = s\n        return b\n```",
    "```python\nimport json\n\n\ndef load(path):\n    f = open(path)\n    data = json.load(f)\n    out = {}\n    for d in data:\n        if d[\"active\"] == True:\n            if d[\"team\"] not in out:\n                out[d[\"team\"]] = []\n            out[d[\"team\"]].append(d[\"email\"])\n    return out\n```",
    "```javascript\nfunction cart(items, code) {\n  let total = 0;\n  for (let i = 0; i < items.length; i++) {\n    total = total + items[i].price * items[i].count;\n  }\n  if (code === \"SPRING\") {\n    total = total * 0.9;\n  } else if (code === \"VIP\") {\n    total = total * 0.8;\n  }\n  return Math.round(total * 100) / 100;\n}\n```",
    "```javascript\nasync function getUsers(ids) {\n  const users = [];\n  for (const id of ids) {\n    const response = await fetch(`/api/users/${id}`);\n    const user = await response.json();\n    users.push(user);\n  }\n  return users;\n}\n```",
    "```typescript\ninterface Task {\n  id: number;\n  title: string;\n  done: boolean;\n}\n\nexport function toggle(tasks: Task[], id: number): Task[] {\n  const copy = [];\n  for (const task of tasks) {\n    if (task.id == id) {\n      copy.push({ id: task.id, title: task.title, done: !task.done });\n    } else {\n      copy.push(task);\n    }\n  }\n  return copy;\n}\n```",
    "```rust\nfn longest<'a>(lines: &'a [String]) -> &'a str {\n    let mut best = \"\";\n    for i in 0..lines.len() {\n        if lines[i].len() > best.len() {\n            best = &lines[i];\n        }\n    }\n    best\n}\n```",
    "```rust\nstruct Account {\n    owner: String,\n    cents: i64,\n}\n\nimpl Account {\n    fn withdraw(&mut self, cents: i64) -> bool {\n        if self.cents - cents < 0 {\n            return false;\n        } else {\n            self.cents = self.cents - cents;\n            return true;\n        }\n    }\n}\n```",
    "```go\nfunc Mean(values []float64) float64 {\n\tvar sum float64\n\tfor i := 0; i < len(values); i++ {\n\t\tsum = sum + values[i]\n\t}\n\treturn sum / float64(len(values))\n}\n```",
    "```java\npublic class Shelf {\n    private String[] books = new String[10];\n    private int count = 0;\n\n    public void add(String book) {\n        books[count] = book;\n        count = count + 1;\n    }\n\n    public boolean has(String book) {\n        for (int i = 0; i < count; i++) {\n            if (books[i] == book) return true;\n        }\n        return false;\n    }\n}\n```",
    "```c\nint count_char(char *s, char c) {\n    int n = 0;\n    int i;\n    for (i = 0; i < strlen(s); i++) {\n        if (s[i] == c) n++;\n    }\n    return n;\n}\n```",
    "```cpp\n#include <vector>\n\nbool contains(std::vector<int> values, int wanted) {\n    for (int i = 0; i < values.size(); i++) {\n        if (values[i] == wanted) {\n            return true;\n        }\n    }\n    return false;\n}\n```",
    "```bash\nfor f in $(ls *.log); do\n  n=$(cat $f | grep ERROR | wc -l)\n  if [ $n -gt 10 ]; then\n    echo $f has $n errors\n  fi\ndone\n```",
    "```sql\nSELECT * FROM employees e, departments d\nWHERE e.dept_id = d.id AND d.city = 'Lyon'\nORDER BY e.salary;\n```",
    "```html\n<div class=\"card\">\n  <h2>Weather</h2>\n  <p>Today: <b>sunny</b>, 21 degrees</p>\n  <button onclick=\"refresh()\">Refresh</button>\n</div>\n```",
    "```css\n.menu { background: #333333; color: #ffffff; padding: 10px; }\n.menu a { color: #ffffff; padding: 10px; }\n.menu a:hover { background: #555555; color: #ffffff; }\n```",
];
