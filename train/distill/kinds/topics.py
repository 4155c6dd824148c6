"""What fills the slots of templates, except those for texts."""

from collections.abc import Sequence


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in text.split(";"))


_NATURE = _words(
    """gravity; evaporation; the water cycle; an ecosystem; the food chain; natural selection; a
    mutation; an enzyme; the immune system; a vaccine; digestion; osmosis; a black hole; a
    supernova; the solar wind; a comet; the greenhouse effect; plate tectonics; a volcano; an
    earthquake; erosion; friction; momentum; kinetic energy; entropy; radioactivity; an isotope;
    a chemical bond; an acid; a catalyst; oxidation; electrolysis; a semiconductor; a magnet;
    electric resistance; an electric motor; a transformer; a laser; a lens; sound; refraction;
    the Doppler effect; a fossil; migration; hibernation; camouflage; pollination; fermentation"""
)
_IDEAS = _words(
    """inflation; supply and demand; opportunity cost; a monopoly; compound interest; a mortgage;
    insurance; a stock; a bond; a budget; a tariff; democracy; federalism; a constitution; the
    separation of powers; a veto; a referendum; human rights; a treaty; colonialism; the
    Industrial Revolution; the Renaissance; the printing press; the Silk Road; feudalism; a
    metaphor; irony; a sonnet; a plot twist; point of view; perspective in painting; a fugue;
    rhythm; a prime number; a fraction; a logarithm; a derivative; an integral; a matrix;
    probability; the median; a correlation; a sample; a confidence interval; a hypothesis; a
    proof; recursion; an algorithm; a database; a compiler; encryption; a hash table; the
    internet; an operating system; open source software; cloud computing; a neural network;
    overfitting; version control; a queue; stoicism; empathy; procrastination; motivation; a
    habit; a bias"""
)
_THINGS = _words(
    """fruits; vegetables; spices; desserts; soups; breakfast dishes; board games; team sports;
    hobbies; musical instruments; dance styles; painters; novels; fairy tales; film genres;
    tools; pieces of furniture; kinds of fabric; flowers; trees; birds; insects; dog breeds;
    planets; rivers; mountains; islands; deserts; inventions; metals; gases; shapes; units of
    length; programming languages; sorting algorithms; kitchen appliances; vehicles;
    professions; school subjects; holidays; gifts for a friend; rainy day activities; ways to
    save energy; ways to save money; ways to learn a language; healthy snacks; exercises without
    equipment; icebreaker questions; book titles about the sea; names for a cat; names for a
    bakery; team building games; interview questions; reasons to read; tourist attractions in
    Europe; sources of renewable energy; causes of stress; signs of a good teacher; leadership
    skills; rules of good writing; marketing ideas for a small shop; topics for a podcast"""
)
_ACTIVITIES = _words(
    """bake bread; cook rice; brew coffee; plant tomatoes; change a bicycle tyre; clean a window;
    paint a room; tie a tie; iron a shirt; remove a stain; pack a suitcase; plan a birthday
    party; move to another city; learn to swim; run five kilometres; sleep better; drink more
    water; meditate; stop biting my nails; read more books; learn the guitar; draw a face; take
    good photos; write a résumé; prepare for an interview; ask for a raise; give a presentation;
    lead a meeting; learn Spanish; study for an exam; take notes; write an essay; start a blog;
    start a podcast; open a small café; sell things online; save for a holiday; make a budget;
    buy a used car; adopt a dog; train a puppy; build a bird house; make a compost heap; set up
    a home network; choose a laptop; back up my files; create a strong password; build a
    website; learn to program; make new friends; apologise to a friend; organise a book club;
    keep houseplants alive"""
)
_TASKS = _words(
    """reverses a string; counts the vowels of a word; checks whether a word is a palindrome; sums
    a list of numbers; finds the largest number in a list; removes duplicates from a list; sorts
    a list of names; merges two dictionaries; counts the words of a text; converts Celsius to
    Fahrenheit; checks whether a number is prime; computes a factorial; prints a multiplication
    table; finds the greatest common divisor; rounds to two decimals; reads a CSV file; writes
    lines to a file; lists the files of a folder; parses a JSON string; validates an email
    address; generates a random password; shuffles a deck of cards; rolls two dice; draws a
    triangle of stars; converts a number to binary; sorts by two keys; computes the average of
    each column; transposes a matrix; multiplies two matrices; searches a sorted list; flattens
    a nested list; groups words by their first letter; finds the longest word; capitalises each
    word; replaces spaces with underscores; counts down from ten; measures how long a call
    takes; downloads a web page; sends an HTTP request; connects to a database; stores a user's
    name; computes a checksum; computes the days between two dates; prints the current time;
    checks for a leap year; computes compound interest; converts Roman numerals; implements a
    stack; implements a queue; inserts into a linked list; walks through a tree; finds the
    shortest path in a graph; caches results; retries a failed call; logs errors; splits a bill;
    plays rock, paper, scissors; guesses a number; simulates a coin toss; encodes text with a
    Caesar cipher"""
)
_ROLES = _words(
    """a lighthouse keeper; an old sailor; a travel guide; a chef; a gardener; a librarian; a
    pilot; a nurse; a judge; a detective; a football coach; a fitness trainer; a piano teacher;
    a historian; a philosopher; a medieval knight; a queen; a dragon; a robot; an alien on
    holiday; a talking cat; a grandmother; a shy student; a strict teacher; a salesman; a bank
    clerk; a taxi driver; a farmer; a carpenter; an architect; a painter; a poet; a comedian; a
    news reporter; a career adviser; a nutritionist; a software engineer; a data scientist; a
    startup founder; a lawyer; a zookeeper; a park ranger; an astronaut; a wizard; a time
    traveller; a ghost"""
)
_SUBJECTS = _words(
    """the sea; autumn leaves; a lost key; the first snow; an old friend; a train journey; the
    moon; a garden in spring; a thunderstorm; a broken clock; a city at night; a letter that
    came late; a dog who waits; the smell of bread; a bridge; a forgotten song; a mountain; a
    lonely robot; a treasure map; a school play; a rainy Sunday; a new job; moving house; a
    garden snail; coffee; silence; courage; forgiveness; patience; curiosity; growing up; home;
    a market in the morning; a race; a chess game; an empty theatre; a small island; a kite; a
    library; a wedding; a harvest; working from home; electric cars; homework; city traffic;
    fast food; social media; pets; museums"""
)
_COUNTRIES = _words(
    """France; Germany; Spain; Portugal; Italy; Greece; Norway; Sweden; Finland; Denmark; Poland;
    Austria; Hungary; Ireland; Iceland; the Netherlands; Belgium; Romania; Ukraine; Turkey;
    Egypt; Morocco; Kenya; Ethiopia; Ghana; Nigeria; South Africa; Tanzania; India; Nepal;
    Pakistan; Thailand; Vietnam; Indonesia; the Philippines; South Korea; Mongolia; Australia;
    New Zealand; Canada; Mexico; Cuba; Jamaica; Costa Rica; Colombia; Peru; Bolivia; Chile;
    Argentina; Brazil"""
)
_PEOPLE = _words(
    """Isaac Newton; Marie Curie; Charles Darwin; Ada Lovelace; Alan Turing; Galileo Galilei;
    Johannes Kepler; Nikola Tesla; Louis Pasteur; Gregor Mendel; Rosalind Franklin; Leonhard
    Euler; Emmy Noether; William Shakespeare; Jane Austen; Charles Dickens; Leo Tolstoy; Franz
    Kafka; Miguel de Cervantes; Virginia Woolf; Mark Twain; Emily Dickinson; Ludwig van
    Beethoven; Johann Sebastian Bach; Frida Kahlo; Vincent van Gogh; Leonardo da Vinci; Claude
    Monet; Abraham Lincoln; Nelson Mandela; Mahatma Gandhi; Cleopatra; Julius Caesar; Joan of
    Arc; Napoleon Bonaparte; Marco Polo; Ferdinand Magellan; Florence Nightingale; Confucius;
    Aristotle"""
)
_ANIMALS = _words(
    """a dog; a horse; a cow; a goat; a rabbit; a squirrel; a fox; a wolf; a bear; a lion; a tiger;
    an elephant; a giraffe; a zebra; a kangaroo; a koala; a monkey; a bat; a whale; a dolphin; a
    seal; a shark; a salmon; a frog; a snake; a lizard; a crocodile; an eagle; an owl; a parrot;
    a penguin; a duck; a swan; a bee; an ant; a butterfly; a spider; a crab; an octopus"""
)
_OBJECTS = _words(
    """a pencil; a candle; a mirror; glass; a banana; a lemon; a carrot; gold; copper; rubber;
    paper; a tyre; a brick; soap; bread; cheese; honey; a diamond; coal; sand; ice; a cloud; a
    pearl; silk; a coin; a violin; a drum; an umbrella; a compass; a thermometer; a battery; a
    light bulb; a key"""
)
_ADJECTIVES = _words(
    """happy; brave; calm; eager; gentle; honest; lazy; loud; modest; narrow; odd; polite; quick;
    rare; rough; sharp; shy; silent; simple; slow; smooth; soft; steep; strange; strict; sudden;
    sweet; tall; thick; tiny; tired; vast; weak; wealthy; wise; ancient; bitter; bright; careful"""
)
_PRODUCTS = _words(
    """the headphones; this blender; the running shoes; the desk lamp; this backpack; the toaster;
    the office chair; this phone case; the electric kettle; the board game; the raincoat; this
    tent; the alarm clock; the coffee maker; the keyboard; this water bottle; the mattress; the
    bike lock; the cookbook; this vacuum cleaner; the sunglasses; the wooden puzzle; the yoga
    mat; the speaker"""
)
_OPINIONS = _words(
    """it broke after two days; I use it every day; it looks better than in the pictures; it is
    fine for the price; my children love it; the colour is not what I ordered; it arrived late,
    but it works; I would buy it again; nobody answers my emails; it is louder than I thought;
    it does what it should; I sent it back; it was a gift, and a success; the instructions are
    hard to read; it is lighter than the old one; a part was missing; it smells strange; the
    quality is outstanding; I expected more; it saved me a lot of time"""
)

TOPICS: dict[str, Sequence[object]] = {
    "concept": _NATURE + _IDEAS,
    "other_concept": _IDEAS,
    "things": _THINGS,
    "things_to_count": _words("marbles; books; stamps; eggs; cards; coins; bricks; shells; pens"),
    "activity": _ACTIVITIES,
    "task": _TASKS,
    "role": _ROLES,
    "other_role": _words("a tourist; a customer; a neighbour; a pupil; your boss; a child"),
    "subject": _SUBJECTS,
    "country": _COUNTRIES,
    "person": _PEOPLE,
    "animal": _ANIMALS,
    "other_animal": _words("a cat; a hen; a mouse; a pig; a camel; a beaver; a goose; a mole"),
    "thing": _OBJECTS,
    "adjective": _ADJECTIVES,
    "product": _PRODUCTS,
    "opinion": _OPINIONS,
    "reader": _words("child; beginner; busy manager; grandparent; student; tourist"),
    "form": _words("news report; diary entry; letter; speech; recipe; poem; blog post; song"),
    "tone": _words("friendly; formal; funny; polite; firm; grateful"),
    "addressee": _words("my landlord; a colleague; my boss; a customer; my aunt; the city council"),
    "purpose": _words(
        """ask for a day off; cancel a meeting; complain about noise; say thank you for a gift;
        invite them to a party; apologise for a delay; ask for feedback; report a broken
        heater; recommend a book; ask for a refund; announce a new opening time; suggest a
        lunch"""
    ),
    "language": _words("French; Spanish; German; Italian; Portuguese"),
    "other_language": _words("Dutch; Polish; Latin; Swedish; English"),
    "computer_language": _words("Python; JavaScript; Java; C; C++; Go; Rust; SQL; Bash; C#"),
    "other_computer_language": _words("Ruby; Kotlin; PHP; TypeScript; Swift"),
    "day": _words("Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday"),
    "few": _words("two; three; four; 3; 5; five"),
    "many": _words("5; 6; seven; 8; ten; 10; 12"),
    "ones": range(2, 10),
    "tens": range(11, 100),
    "other_tens": range(11, 100),
    "hundreds": range(100, 1000),
    "other_hundreds": range(100, 1000),
    "percent": range(5, 100, 5),
}
