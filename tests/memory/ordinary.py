"""Ordinary banks: 300 science questions with options, and 150 programming tasks, in plain English.

Problems come in topics: those of a topic ask the like in other words and with other things. Each has two notes, the
first about its own things, the second about its topic: a strategy at every second problem, else a lesson. The first
`untold` problems of each topic have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from pmd.services.common.wire import Message, Problem
from tests.memory.world import Words, World


@dataclass(frozen=True)
class Topic:
    """Problems that ask the like: one for each of `things` at each of `places`."""

    subject: str
    frames: tuple[str, str]
    """Two ways to ask; problems take turns."""
    things: dict[str, str]
    """What is asked about, with its answer."""
    places: tuple[str, str, str]
    specific: str
    """Strategy of one problem."""
    strategy: str
    lesson: str


SCIENCE = [
    Topic(
        "chemistry",
        (
            "Which gas escapes when {thing} meets {place}?",
            "Bubbles rise as soon as {thing} is put into {place}. What are they made of?",
        ),
        {
            "zinc": "hydrogen",
            "chalk": "carbon dioxide",
            "iron sulfide": "hydrogen sulfide",
            "manganese dioxide": "chlorine",
            "sodium sulfite": "sulfur dioxide",
        },
        ("dilute hydrochloric acid", "warm vinegar", "an excess of strong acid"),
        "Write down what {thing} consists of and pair its anion with the hydrogen of {place}.",
        "Metals above hydrogen displace it from acids, while carbonates give off carbon dioxide.",
        "Never take oxygen for the gas that an acid drives out.",
    ),
    Topic(
        "chemistry",
        (
            "How many moles are there in {place} of {thing}?",
            "A flask holds {place} of {thing}. What amount of substance is that, in moles?",
        ),
        {"water": "18", "methane": "16", "ammonia": "17", "glucose": "180", "sodium chloride": "58.5"},
        ("36 grams", "9 grams", "120 grams"),
        "Look up the atoms of {thing}, add their masses, and divide {place} by that sum.",
        "Divide the mass by the molar mass, and keep the units beside the numbers.",
        "Don't multiply the mass by the molar mass.",
    ),
    Topic(
        "chemistry",
        (
            "What colour does {thing} show when it is dipped into {place}?",
            "{thing} is held into {place}. Which colour appears?",
        ),
        {
            "red litmus paper": "blue",
            "phenolphthalein": "pink",
            "universal indicator": "purple",
            "methyl orange": "yellow",
            "red cabbage juice": "green",
        },
        ("limewater", "a solution of baking soda", "dilute ammonia"),
        "Decide first that {place} is alkaline, then read the alkaline colour of {thing}.",
        "An indicator has one colour below its range of pH and another above it.",
        "Avoid reading the acid colour of an indicator for a base.",
    ),
    Topic(
        "chemistry",
        (
            "The equilibrium in the making of {thing} is disturbed by {place}. Which way does it shift?",
            "What becomes of the yield of {thing} after {place}?",
        ),
        {
            "ammonia": "towards the products",
            "sulfur trioxide": "towards the product side",
            "methanol": "forward",
            "nitric oxide": "not at all",
            "hydrogen iodide": "backward",
        },
        ("a rise in pressure", "an increase in temperature", "removal of the product"),
        "Count the gas molecules on both sides of the equation for {thing}, then ask what {place} does to them.",
        "A system at equilibrium shifts so as to counteract what disturbs it.",
        "Don't let a catalyst move the balance of a reaction.",
    ),
    Topic(
        "biology",
        (
            "Both parents of a {place} carry the allele for {thing}. How likely is an affected child?",
            "What share of the offspring of a {place} of carriers shows {thing}?",
        ),
        {
            "cystic fibrosis": "one in four",
            "albinism": "a quarter",
            "Huntington's disease": "three quarters",
            "sickle cell anaemia": "25 %",
            "polydactyly": "75 %",
        },
        ("healthy couple", "pair of cousins", "family with two sons"),
        "Ask whether {thing} is dominant, and draw the square for that {place}.",
        "A Punnett square gives the odds: a recessive trait needs an allele from each parent.",
        "Never call a carrier of a recessive allele affected.",
    ),
    Topic(
        "biology",
        (
            "What becomes of {thing} after an hour in {place}?",
            "{thing} is left in {place}. What does the water inside do?",
        ),
        {
            "a red blood cell": "it bursts",
            "a raisin": "it swells",
            "a slice of cucumber": "it stiffens",
            "a carrot stick": "it becomes firm",
            "an amoeba": "its vacuole works harder",
        },
        ("distilled water", "fresh rain water", "a very weak salt solution"),
        "Compare the salt inside {thing} with that of {place} before anything else.",
        "By osmosis water crosses a membrane to the side with more dissolved particles.",
        "Don't forget the cell wall, which keeps plant cells from bursting.",
    ),
    Topic(
        "biology",
        (
            "Every {thing} disappears from {place}. Which population changes first, and how?",
            "What follows in the food web of {place} once the {thing} has died out?",
        ),
        {
            "fox": "rabbits become more numerous",
            "owl": "mice multiply",
            "ladybird": "aphids spread",
            "pike": "small fish increase",
            "otter": "sea urchins thrive",
        },
        ("a meadow", "an island", "a nature reserve"),
        "List what the {thing} eats in {place} and who eats it.",
        "Without its predator a prey grows in number until its own food runs short.",
        "Avoid jumping to the top of the food chain; begin with the next link.",
    ),
    Topic(
        "biology",
        (
            "In which part of the plant does {thing} take place {place}?",
            "Where would you look for {thing} in a leafy shoot {place}?",
        ),
        {
            "photosynthesis": "in the chloroplasts",
            "transpiration": "at the stomata",
            "the transport of sugar": "in the phloem",
            "the uptake of minerals": "at the root hairs",
            "growth in length": "in the meristem",
        },
        ("in full sunlight", "on a dry afternoon", "early in spring"),
        "Name the tissue that {thing} needs and say whether it works {place}.",
        "Each process of a plant has its tissue: leaves catch light, xylem lifts water, phloem carries sugar.",
        "Never mix up xylem and phloem.",
    ),
    Topic(
        "physics",
        (
            "A net force of {place} acts on {thing}. What is its acceleration?",
            "How strongly does {thing} speed up under a resultant force of {place}?",
        ),
        {
            "a trolley of 2 kg": "F / 2",
            "a sledge of 40 kg": "F / 40",
            "a puck of 0.5 kg": "2 F",
            "a car of 800 kg": "F / 800",
            "a crate of 25 kg": "F / 25",
        },
        ("10 newtons", "80 newtons", "a quarter of a kilonewton"),
        "Put {place} over the mass of {thing}, in kilograms.",
        "Newton's second law: acceleration is the net force over the mass.",
        "Don't count balanced forces into the net force.",
    ),
    Topic(
        "physics",
        (
            "What current flows through {thing} that is connected to {place}?",
            "{thing} hangs on {place}. How many amperes does an ammeter show?",
        ),
        {
            "a lamp of 12 ohms": "U / 12",
            "a heater of 46 ohms": "U / 46",
            "two resistors of 6 ohms in parallel": "U / 3",
            "two resistors of 5 ohms in series": "U / 10",
            "a buzzer of 30 ohms": "U / 30",
        },
        ("a battery of 6 volts", "a supply of 24 volts", "a solar cell of 1.5 volts"),
        "Find the resistance of {thing} as a whole, then divide the voltage of {place} by it.",
        "Ohm's law: the current is the voltage over the resistance of that part of the circuit.",
        "Never add parallel resistances as if they stood in series.",
    ),
    Topic(
        "physics",
        (
            "A ray of light goes from {place} into {thing}. Which way is it bent?",
            "How does a beam change direction where {place} borders on {thing}?",
        ),
        {
            "window glass": "towards the normal",
            "diamond": "strongly towards the normal",
            "a warmer layer of air": "away from the normal",
            "a vacuum": "away from it",
            "perspex": "nearer to the normal",
        },
        ("air", "cold water", "clear oil"),
        "Compare the refractive index of {place} with that of {thing}.",
        "Light bends towards the normal where it becomes slower, and away where it becomes faster.",
        "Don't confuse the angle to the surface with the angle to the normal.",
    ),
    Topic(
        "physics",
        (
            "{thing} sends out a tone that travels through {place}. What is its wavelength?",
            "How long is one wave of the sound of {thing} in {place}?",
        ),
        {
            "a tuning fork of 440 Hz": "v / 440",
            "a foghorn of 170 Hz": "v / 170",
            "a whistle of 2 kHz": "v / 2000",
            "a bass string of 41 Hz": "v / 41",
            "a bat at 50 kHz": "v / 50000",
        },
        ("air", "sea water", "a steel rail"),
        "Take the speed of sound in {place} and divide it by the frequency of {thing}.",
        "Speed equals frequency times wavelength; the source fixes the frequency, the medium the speed.",
        "Avoid taking the speed in air for every medium.",
    ),
    Topic(
        "earth science",
        (
            "Which kind of rock is {thing}, picked up {place}?",
            "A geologist finds {thing} {place}. To which group of rocks does it belong?",
        ),
        {
            "basalt": "igneous",
            "sandstone": "sedimentary",
            "marble": "metamorphic",
            "granite": "plutonic",
            "slate": "metamorphic, of low grade",
        },
        ("near an old volcano", "in a mountain pass", "on a river bank"),
        "Look at grain and layers of {thing}; where it lay ({place}) may mislead.",
        "Large crystals mean slow cooling, layers mean deposit, bands mean heat and pressure.",
        "Don't judge a rock by its colour.",
    ),
    Topic(
        "earth science",
        (
            "What do the plates do beneath {thing}, and how can {place} tell?",
            "Which sort of plate boundary explains {thing}, according to {place}?",
        ),
        {
            "the Himalayas": "they collide",
            "the Mid-Atlantic Ridge": "they move apart",
            "the San Andreas Fault": "they slide past each other",
            "the Mariana Trench": "one sinks below the other",
            "the Andes": "an ocean plate dives under a continent",
        },
        ("a map of earthquakes", "the age of the sea floor", "a satellite survey"),
        "Use {place} to see whether the crust at {thing} grows, vanishes or only shears.",
        "New crust forms at divergent boundaries, old crust sinks at convergent ones.",
        "Never expect volcanoes where plates only slide past each other.",
    ),
    Topic(
        "earth science",
        (
            "Over {place} the barometer falls while {thing} moves in. What weather is coming?",
            "A forecaster for {place} reports {thing}. What should people expect?",
        ),
        {
            "a cold front": "short heavy showers",
            "a warm front": "hours of steady rain",
            "an area of low pressure": "wind and cloud",
            "a ridge of high pressure": "calm and clear skies",
            "a sea breeze": "a cooler afternoon",
        },
        ("the coast", "a valley in the Alps", "the plains"),
        "Ask whether the air above {place} rises or sinks when {thing} arrives.",
        "Air that rises expands, cools and lets its moisture condense; air that sinks clears the sky.",
        "Avoid calling every falling barometer a thunderstorm.",
    ),
    Topic(
        "astronomy",
        (
            "Seen from {place}, how does {thing} come about?",
            "Which position of Sun, Earth and Moon explains {thing} for {place}?",
        ),
        {
            "a solar eclipse": "the Moon stands before the Sun",
            "a lunar eclipse": "the Earth stands between",
            "a full moon": "the Sun lights the whole near side",
            "a new moon": "the near side is dark",
            "a spring tide": "Sun and Moon pull in line",
        },
        ("an observer in Norway", "an observer in Kenya", "a ship in the Pacific"),
        "Draw the three bodies in a row for {thing} and mark {place}.",
        "Phases come from the angle between Sun, Earth and Moon, eclipses from their shadows.",
        "Don't explain the phases of the Moon by the shadow of the Earth.",
    ),
    Topic(
        "astronomy",
        (
            "Why is a year on {thing} what it is, compared with {place}?",
            "Does {thing} need more or less time for its orbit than {place}, and why?",
        ),
        {
            "Mercury": "less, as it is nearest to the Sun",
            "Neptune": "more, as it is farthest out",
            "Mars": "somewhat more",
            "Saturn": "about thirty times as long",
            "Venus": "somewhat less",
        },
        ("that of the Earth", "that of Jupiter", "that of an asteroid"),
        "Order {thing} and its rival ({place}) by their distance from the Sun.",
        "By Kepler's third law the square of the period grows with the cube of the distance.",
        "Never infer the length of a year from the size of a planet.",
    ),
    Topic(
        "medicine",
        (
            "A {place} lacks {thing}. Which complaint is to be expected?",
            "Which disease threatens a {place} whose diet has too little {thing}?",
        ),
        {
            "vitamin C": "scurvy",
            "vitamin D": "rickets",
            "iron": "anaemia",
            "iodine": "goitre",
            "thiamine": "beriberi",
        },
        ("sailor of old", "growing child", "pregnant woman"),
        "Recall which tissue uses {thing} most, and how that shows in a {place}.",
        "A deficiency shows first in the tissue that needs the nutrient to renew itself.",
        "Avoid blaming a single bad meal for a deficiency.",
    ),
    Topic(
        "medicine",
        (
            "How does the body of {place} answer to {thing}?",
            "{thing} reaches {place}. Which reaction sets in within minutes?",
        ),
        {
            "a drop in blood sugar": "glucagon is released",
            "a rise in temperature": "sweat is secreted",
            "loss of blood": "the vessels narrow",
            "a sudden fright": "adrenaline is released",
            "thin mountain air": "breathing deepens",
        },
        ("a healthy adult", "a trained runner", "an elderly patient"),
        "Name the sensor that notices {thing} in {place}, then the organ that acts.",
        "Homeostasis is negative feedback: the response opposes the change.",
        "Don't expect the kidneys to act within seconds.",
    ),
    Topic(
        "medicine",
        (
            "Why does {thing} not help {place}?",
            "A doctor refuses to give {thing} to {place}. What is the reason?",
        ),
        {
            "an antibiotic": "it harms bacteria only",
            "a vaccine after the infection": "immunity takes weeks",
            "a painkiller": "it leaves the cause alone",
            "an antacid": "it only binds acid",
            "a sleeping pill": "it slows breathing",
        },
        ("a patient with influenza", "a student with a common cold", "a traveller with dengue fever"),
        "Say what {thing} acts on and whether {place} has it at all.",
        "A drug works on its target alone: viruses lack what antibiotics attack.",
        "Never prescribe by symptom before the cause is known.",
    ),
]

PROGRAMMING = [
    Topic(
        "lists",
        (
            "Write a function that returns the {thing} of a list of {place}.",
            "Given {place}, one per entry of a list, compute their {thing}.",
        ),
        {"sum": "sum", "median": "median", "range": "range", "largest gap": "gap", "mean": "mean"},
        ("daily temperatures", "exam marks", "parcel weights"),
        "Check what the {thing} of no {place} at all should be.",
        "Handle the empty list before anything is computed.",
        "Don't divide by the length before you know that it isn't zero.",
    ),
    Topic(
        "strings",
        (
            "Write a function that tells whether a {place} is {thing}, whatever its case.",
            "Decide for a given {place} if it is {thing}; capitals and small letters count as equal.",
        ),
        {"a palindrome": "p", "an anagram of another": "a", "a pangram": "g", "an isogram": "i", "alphabetical": "b"},
        ("word", "sentence", "user name"),
        "Lower the {place} first, then test whether it is {thing}.",
        "Normalise case and drop punctuation before characters are compared.",
        "Never compare characters of different case.",
    ),
    Topic(
        "graphs",
        (
            "Find the {thing} between two {place} of a map that is given as a list of edges.",
            "A map joins {place} by edges. Return the {thing} from the first to the last.",
        ),
        {
            "shortest path": "s",
            "number of routes": "n",
            "cheapest connection": "c",
            "path with fewest changes": "f",
            "widest road": "w",
        },
        ("towns", "stations", "islands"),
        "Build the neighbours of all {place} first, then search for the {thing}.",
        "Use breadth-first search without weights and Dijkstra's algorithm with them.",
        "Avoid visiting a node twice; keep a set of those that were seen.",
    ),
    Topic(
        "dates",
        (
            "Count the {thing} between two {place}, both included.",
            "Two {place} are given as text. How many {thing} lie from one to the other?",
        ),
        {"working days": "w", "leap years": "l", "Sundays": "s", "full months": "m", "Fridays the 13th": "f"},
        ("birthdays", "invoices' dates", "departures"),
        "Parse the {place}, then step through the calendar and count {thing}.",
        "Let the standard library do calendar arithmetic, leap years included.",
        "Don't assume that every month has thirty days.",
    ),
    Topic(
        "parsing",
        (
            "Evaluate {place} that contains {thing}.",
            "Read {place} as text and return its value; it may hold {thing}.",
        ),
        {
            "nested brackets": "b",
            "unary minus": "u",
            "powers": "p",
            "variables": "v",
            "comparison signs": "c",
        },
        ("an arithmetic expression", "a spreadsheet formula", "a query filter"),
        "Give {thing} a rule of its own in the grammar of {place}.",
        "Split the text into tokens first, then parse by precedence with recursive descent.",
        "Never evaluate the text with eval.",
    ),
    Topic(
        "money",
        (
            "Split {place} into {thing}, with as few pieces as possible.",
            "Which {thing} pay {place} exactly, if as few as possible are wanted?",
        ),
        {"coins": "c", "bank notes": "n", "stamps": "s", "vouchers": "v", "tokens": "t"},
        ("a price in cents", "a restaurant bill", "a taxi fare"),
        "Ask whether greedy choice is right for these {thing} before you pay {place} with them.",
        "Dynamic programming over amounts is right for every set of denominations.",
        "Avoid floating point for amounts of money.",
    ),
    Topic(
        "matrices",
        (
            "{thing} a {place} that is given as rows of integers.",
            "You get a {place}, row by row. Return it after the operation: {thing}.",
        ),
        {
            "Rotate by a quarter turn": "r",
            "Transpose": "t",
            "Mirror left to right": "m",
            "Read in a spiral": "s",
            "Zero every row that has a zero": "z",
        },
        ("pixel image", "game board", "seating plan"),
        "Write where the cell of row i and column j of the {place} goes: {thing}.",
        "Work out the new indices of one cell on paper, for a matrix that isn't square.",
        "Don't change a row while another still needs its old values.",
    ),
    Topic(
        "simulation",
        (
            "Simulate {thing} for {place} and return its final state.",
            "What is the state of {thing} after {place} have passed?",
        ),
        {
            "a queue at a counter": "q",
            "a traffic light": "t",
            "a lift": "l",
            "a vending machine": "v",
            "a bouncing ball": "b",
        },
        ("a hundred ticks", "a list of events", "n rounds"),
        "List the states of {thing} and what {place} may change in each.",
        "Keep the state in one place and let each event be a small function of it.",
        "Never skip the events that arrive in the same instant.",
    ),
    Topic(
        "numbers",
        (
            "Find all {thing} below {place}.",
            "How many {thing} are there up to {place}?",
        ),
        {
            "primes": "p",
            "perfect squares": "s",
            "happy numbers": "h",
            "numbers with digit sum ten": "d",
            "perfect numbers": "f",
        },
        ("a given bound", "one million", "the length of the input"),
        "Test a few small {thing} by hand before you go up to {place}.",
        "Use a sieve where many numbers are tested, trial division where few are.",
        "Don't forget whether the bound itself counts.",
    ),
    Topic(
        "scheduling",
        (
            "Choose the largest number of {thing} that can share {place} without overlap.",
            "{thing} have a start and an end. How many fit into {place} one after the other?",
        ),
        {"meetings": "m", "lectures": "l", "concerts": "c", "experiments": "e", "flights": "f"},
        ("one room", "a single gate", "one telescope"),
        "Decide whether {thing} that only touch may follow each other in {place}.",
        "Sort the intervals by their end and always take the next that fits.",
        "Avoid sorting intervals by their start or length.",
    ),
]


@dataclass(frozen=True)
class Ordinary:
    """A problem, its topic and subject, and the notes that are written about it."""

    problem: Problem
    topic: int
    subject: str
    notes: str
    """As a model writes them; empty where it writes none."""
    approach: str


def bank(topics: Sequence[Topic], untold: int = 0) -> list[Ordinary]:
    """Fifteen problems of each topic."""
    found = []
    for number, topic in enumerate(topics):
        answers = list(dict.fromkeys(topic.things.values()))
        for n, ((thing, answer), place) in enumerate(product(topic.things.items(), topic.places)):
            words = {"thing": thing, "place": place}
            question = topic.frames[n % 2].format(**words)
            question = question[0].upper() + question[1:]
            if topics is SCIENCE:
                place_of = n % 4
                options = [a for a in answers if a != answer][:3]
                options.insert(place_of, answer)
                question += "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", options, strict=True))
                verifier = {"kind": "choice", "options": options, "answer": "ABCD"[place_of]}
            else:
                verifier = {"kind": "code", "fn_name": "solve", "tests": [{"input": f"[{n}]", "output": f"[{n}, 7]"}]}
            pid = f"{topic.subject.replace(' ', '-')}-{number:02}-{n:02}"
            second = f"Strategy: {topic.strategy}" if n % 2 else f"Lesson: {topic.lesson}"
            found.append(
                Ordinary(
                    Problem(id=pid, messages=[Message(role="user", content=question)], verifier=verifier),
                    number,
                    topic.subject,
                    "" if n < untold else f"Strategy: {topic.specific.format(**words)}\n{second}",
                    f"I think of {thing} and of {place}.",
                )
            )
    return found


def filled(folder: Path, problems: Sequence[Ordinary]) -> World:
    """A bank of these problems through the real jobs: two attempts each, and their notes."""
    world = World(folder, [one.problem for one in problems])
    world.evidence = "effect"
    tries = [(one.problem.id, f"{one.approach} Attempt {ok}.", ok) for one in problems for ok in (True, False)]
    world.record(1, tries)
    notes = {one.problem.question(): one.notes for one in problems}
    world.reflect(1, Words(lambda prompt: notes[prompt.split("|")[1]] or "None"))
    return world
