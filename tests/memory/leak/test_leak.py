"""The leak guard counted over tables: planted answers are caught, ordinary insights pass."""

from __future__ import annotations

from pmd.services.common.wire import Message, Problem
from pmd.services.memory.leak.guard import leak

PROGRAM = """Plan.
```python
def solve(a):
    out = []
    for x in a:
        out.append((x * 7 + 3) % 11)
    return out
```"""


def problem(question: str, **verifier: object) -> Problem:
    return Problem(id="p", messages=[Message(role="user", content=question)], verifier=verifier)


CHOICE = problem(
    "Which compound is aromatic?\nA. cyclohexane\nB. benzene ring with six electrons\nC. ethanol\nD. acetone",
    kind="choice",
    answer="B",
    labels=["A", "B", "C", "D"],
)
NUMBER = problem("How many primes are below 200?", kind="math", answer="46")
LARGE = problem("Sum of the series?", kind="math", answer="12500")
WORDS = problem("Which organelle makes ATP?", kind="exact", answer="mitochondrion")
SHORT = problem("Is the graph bipartite?", kind="exact", answer="no")
CODE = problem(
    "Apply the rule to each number.",
    kind="code",
    fn_name="solve",
    tests=[{"input": "[12, 5, 40, 9]", "output": "[10, 5, 8, 0]"}, {"input": "[1]", "output": "xylophone quartz"}],
)

PLANTED = [
    (CHOICE, "The answer is B."),
    (CHOICE, "Always choose (B) here."),
    (CHOICE, "B is correct because of the six electrons."),
    (CHOICE, "Pick B when rings appear."),
    (CHOICE, "Option **B** wins."),
    (CHOICE, "Rule out A, C and D at once."),
    (CHOICE, "Neither A nor C nor D can hold."),
    (CHOICE, "Look for benzene ring with six electrons."),
    (CHOICE, "end with <answer>B</answer>"),
    (NUMBER, "There are 46 of them."),
    (NUMBER, "the count is \\boxed{46}"),
    (NUMBER, "It comes to 46.0 exactly."),
    (NUMBER, "count = ４６"),
    (LARGE, "the sum is 12,500"),
    (LARGE, "the sum is $12{,}500$ or 12500"),
    (WORDS, "Remember: Mitochondrion."),
    (WORDS, "the mito\u200bchondrion does it"),
    (WORDS, "m i t o c h o n d r i o n"),
    (SHORT, "The answer is no."),
    (CODE, "use out.append((x * 7 + 3) % 11) for each"),
    (CODE, "res = []; for item in nums: res.append((item * 7 + 3) % 11)"),
    (CODE, "def solve(a):\n    return [(x * 7 + 3) % 11 for x in a]"),
    (CODE, "it must return [10,5,8,0]"),
    (CODE, "the outputs are 10 5 8 0"),
    (CODE, "when given 12, 5, 40, 9 be careful"),
    (CODE, "print 'xylophone quartz' for one element"),
]

ORDINARY = [
    (CHOICE, "Count the electrons of each ring before comparing the options."),
    (CHOICE, "A ring needs 4n + 2 electrons; check planarity first."),
    (CHOICE, "Compare every option with the definition, not with each other."),
    (CHOICE, "The answer is a compound; name its class before you choose."),
    (CHOICE, "Do not choose the longest option by habit."),
    (CHOICE, "Choose a definition and test A to D against it."),
    (CHOICE, "Vitamin C and hepatitis B are not relevant here."),
    (CHOICE, "Saturated rings are not aromatic."),
    (CHOICE, "Correct vitamin C levels do not matter for ring counts."),
    (CHOICE, "Pick A ring system and count its electrons."),
    (CHOICE, "Take a plan that checks hepatitis B and D separately."),
    (NUMBER, "Use a sieve up to the bound."),
    (NUMBER, "Check divisors up to 14 only."),
    (NUMBER, "1046 is not below the bound; 460 neither."),
    (NUMBER, "Start from 2.46 density estimates, then count exactly."),
    (LARGE, "Pair the first and the last term."),
    (LARGE, "Watch the sign of every second term; 125 pairs remain."),
    (WORDS, "Recall which organelle has its own membrane folds."),
    (WORDS, "Think of where the electron transport chain sits."),
    (SHORT, "Colour the nodes in two colours; if no conflict appears, it is."),
    (SHORT, "There is no need to try all orders."),
    (SHORT, "Odd cycles decide it."),
    (CODE, "Multiply first, then take the remainder; the order matters."),
    (CODE, "Handle the empty list before the loop."),
    (CODE, "Use x * 7 before adding the offset."),
    (CODE, "The modulus is prime, so nothing repeats early."),
    (CODE, "Do not sort: positions must stay."),
    (CODE, "for each number, multiply, add, reduce."),
    (CODE, "zor-mil: rotate then add 3."),
    (CODE, "Return a list, not a generator."),
    (CODE, "Adding 3 before multiplying by 7 fails on most inputs."),
    (CODE, "Steps: 1, 2, 3, then 4 as in the statement."),
]


def test_planted_answers_are_caught() -> None:
    missed = [note for about, note in PLANTED if leak(note, about, [PROGRAM]) is None]
    assert missed == []


def test_ordinary_insights_pass() -> None:
    """False positives are counted: 0 of 32."""
    blamed = {note: reason for about, note in ORDINARY if (reason := leak(note, about, [PROGRAM]))}
    assert blamed == {}
