"""How a problem is asked: families of phrasings, some of which are never trained.

A family is a list of patterns. In a pattern (x|y|) is a choice, {a} and {b} are the operands, E an
expression of them from EXPRESSIONS, {N} and {M} names, {T} a plural noun, {C} a container, {P} a
place. A family whose name ends in ">" is asked only where a >= b.
"""

import re

from words import CONTAINERS, NAMES, PLACES, THINGS

# An operation as a phrase that stands for the result.
EXPRESSIONS = {
    "+": (
        """{a}+{b}|{a} + {b}|{a} + {b}|{a} plus {b}|{a} plus {b}|{a} added to {b}|
        {a} increased by {b}|{a} and {b} together|{a} and {b} combined|{a} and {b} in total|
        {a} and {b} added together|{a} more than {b}|the sum of {a} and {b}|sum of {a} and {b}|
        the total of {a} and {b}|the sum {a} + {b}|adding {a} and {b}|adding {a} to {b}|
        {a} add {b}|{a} with {b} added|the addition of {a} and {b}|
        the sum of the numbers {a} and {b}|the sum {a} plus {b}|{a} and {b} summed up|
        {a} and another {b}"""
    ),
    "-": (
        """{a}-{b}|{a} - {b}|{a} - {b}|{a} minus {b}|{a} minus {b}|{a} less {b}|{a} take away {b}|
        {a} subtract {b}|{a} decreased by {b}|{a} reduced by {b}|{a} with {b} taken away|
        {a} with {b} subtracted|{b} less than {a}|{b} subtracted from {a}|{b} taken from {a}|
        {b} taken away from {a}|subtracting {b} from {a}|taking {b} from {a}|
        taking {b} away from {a}|the difference {a} minus {b}|the difference {a} - {b}|
        the subtraction {a} - {b}|{a} diminished by {b}|{a} after subtracting {b}"""
    ),
    "*": (
        """{a}*{b}|{a} * {b}|{a} x {b}|{a}x{b}|{a} × {b}|{a}×{b}|{a} times {b}|{a} times {b}|
        {a} multiplied by {b}|{a} multiplied with {b}|the product of {a} and {b}|
        product of {a} and {b}|multiplying {a} by {b}|multiplying {a} and {b}|
        the product {a} times {b}|the product {a} * {b}|{a} and {b} multiplied|
        the multiplication of {a} by {b}|{a} by {b} multiplied|{a} · {b}|
        the product of the numbers {a} and {b}"""
    ),
}

# Sentences around an expression, for any operation.
ASKING = {
    "what is": [
        "What is E?",
        "What's E?",
        "whats E",
        "What is (the value of|the result of|the answer to|) E?",
        "What (number|value|result) is E?",
        "So what is E?",
        "And what is E?",
        "What about E?",
    ],
    "how much": [
        "How much is E?",
        "How much (does|would|will) E (make|be|give|come to)?",
        "E is how much?",
    ],
    "command": ["(Calculate|Compute|Find|Evaluate|Work out|Solve|Determine|Figure out|Get|Do) E."],
    "command result": [
        "(Calculate|Compute|Find|Give|Show|State|Write|Name|Write down) (me |)(the|) "
        "(result|answer|value|solution) (of|to|for) E."
    ],
    "bare": ["E", "E?", "E.", "E", "E =", "E=", "E = ?", "E=?"],
    "colon": [
        "(Calculate|Compute|Solve|Question|Problem|Task|Exercise|Sum|Next|Evaluate|Math|Q): E",
        "Q: E A:",
        "E:",
        "Here is the problem: E",
        "Answer this: E",
        "Solve this (problem|): E",
    ],
    "can you": [
        "(Can|Could|Would|Will) you (please |)(calculate|compute|work out|tell"
        " me|find|solve|evaluate|do) E(?|, please?| for me?)"
    ],
    "can you say": [
        "(Can|Could) you (please |)(tell me|say|explain) (what|how much) E (is|makes|gives)?"
    ],
    "tell me": ["(Tell me|Say|Show me|Explain) (what|how much) E (is|makes|gives|equals)."],
    "tell": ["(Tell me|Give me|Show me|Send me|I need|I want) E."],
    "need": [
        "I (need|want|have|would like|'d like|am trying|was asked|must) to"
        " (know|calculate|compute|find|work out|solve|figure out) E."
    ],
    "need what": [
        "I (need|want|would like|'d love) to know (what|how much) E (is|makes|gives|equals)."
    ],
    "do you know": [
        "Do you know (what|how much|) E (is|makes|equals|)?",
        "Does anyone know what E is?",
    ],
    "what does": [
        "What does E (equal|make|give|come to|amount to|yield)?",
        "What (will|would|should|might) E be?",
    ],
    "what do you get": [
        "What do (you|I|we) (get|have|obtain|find) (for|from|with|when computing|if we do|by) E?"
    ],
    "equals": [
        "E (equals|makes|is|gives|is equal to) (what|what number|how much|which number)?",
        "E (equals|makes|is|gives|comes to)...",
        "E makes?",
    ],
    "passive": [
        "The (answer|result|value) (of|to|for) E is (what|needed|wanted|asked for|missing)(?|.)"
    ],
    "if": [
        "If (I|you|we|{N}) (compute|calculate|compute|work out|do) E, what (do I get|is the"
        " result|is it|comes out)?"
    ],
    "someone": [
        (
            "(My teacher|My friend|My boss|{N}|My sister|The book) (asks|asked|wants to"
            " know|wonders|says): E"
        ),
        (
            "(My teacher|My friend|{N}|My mother) (asks|asked|wants to know|wonders) (what|how"
            " much) E is."
        ),
    ],
    "let": ["(Let's|Let us|We|Now|Next|Now we) (compute|calculate|do|find|try|work out) E."],
    "help": [
        "(Help me|Please help me|Help {N}) (compute|calculate|with|find|work out|do|to find) E."
    ],
    "wonder": [
        "I (wonder|am wondering|was wondering|forgot|don't know|do not know) (what|how much) E is."
    ],
    "stuck": [
        "I (am stuck on|can't do|can not work out|struggle with|have trouble with|need help"
        " with) E."
    ],
    "please": [
        "(Please|Kindly) (compute|calculate|work out|give me|answer|solve|do) E(.|, thanks.|, thank"
        " you.|)"
    ],
    "after": [
        "E, (what is it|how much is it|what is that|can you do it|please|what does it make|solve"
        " it|compute it|calculate|work it out|how much|what is the answer|tell me)(?|.)"
    ],
    "check": [
        "(In my|For my) (homework|test|book|exam|lesson) there is E. (What is it|How much is it|The"
        " answer|Solve it|Can you solve it)(?|.)"
    ],
}

# Sentences with an operation of their own.
OWN = {
    "+": {
        "add and": [
            "(Please |Now |)(Add|Sum|Add up|Sum up|Add together|Total|Combine) {a} and {b}.",
            "Add {a} and {b} (together|up|now|for me).",
        ],
        "add to": ["(Please |Now |)Add {a} to {b}.", "To {b} add {a}.", "To {b}, please add {a}."],
        "can you add": [
            "(Can|Could|Would) you (please |)(add|sum|sum up|add up) {a} (and|plus) {b}?",
            "(Can|Could) you add {a} to {b}(?| for me?)",
        ],
        "get if add": [
            "What (do|will|would) (I|you|we) (get|have|obtain) (if|when) (I|you|we) add {a}"
            " (to|and) {b}?"
        ],
        "if add": [
            "If (I|you|we|{N}) (add|adds) {a} (to|and) {b}, what (do I get|is the result|is the"
            " sum|is it)?"
        ],
        "take add": [
            "(Take|Start with|Begin with|Start at|We have|I have) {a} and add {b}.",
            "Take {a}, then add {b}. (What is it|What do you get|Result|How much)?",
        ],
        "put": [
            "Put {a} and {b} together.",
            "What do {a} and {b} (make|give|total|come to|add up to)( together|)?",
        ],
        "increase": ["(Increase|Raise) {a} by {b}.", "What is {a} (increased|raised) by {b}?"],
        "total of": [
            "(Find|Give me|Tell me|I need|Compute|Calculate) the (total|sum) (of|for) {a} and {b}.",
            "What is the (total|sum) (of|when you add|if you add) {a} and {b}?",
            "Sum: {a}, {b}",
            "{a} and {b}: what is the (sum|total)?",
            "Numbers {a} and {b}. (Add them|Sum them up|Their sum?)",
        ],
        "need add": [
            "I (need|want|have) to add {a} (and|to) {b}.",
            "How do I add {a} (and|to) {b}?",
        ],
        "story more": [
            "{N} (has|had|owns|counted) {a} {T} and"
            " (gets|buys|finds|receives|wins|bought|got|found|won) {b} more( {T}|). How many {T}"
            " (does {N} have|are there|has {N}|does {N} have now) (now|in total|)?"
        ],
        "story two": [
            "{N} has {a} {T}(.| and) {M} has {b}( {T}|). How many {T} do they have (together|in"
            " total|in all|altogether)?"
        ],
        "story places": [
            "There are {a} {T} (in one box|at the {P}|here|on the left) and {b} (more |){T} (in"
            " another|at the {P}|there|on the right). How many {T} are there (together|in total|in"
            " all|altogether)?"
        ],
        "story days": [
            "(I|{N}) (read|sold|made|saw|ate|used) {a} {T} (yesterday|on Monday|in the morning) and"
            " {b} (today|on Tuesday|in the evening). (How many in total|What is the total|How many"
            " altogether)?"
        ],
        "story come": [
            "{a} {T} are at the {P}. {b} more (come|arrive|are added). How many are there now?"
        ],
        "story pay": [
            "(One|The first) (book|ticket|bag) costs {a} (dollars|euros|cents) and (the"
            " other|another|the second) {b}. (What is the total|How much together|How much in"
            " total)?"
        ],
    },
    "-": {
        "subtract": [
            "(Please |Now |)(Subtract|Deduct) {b} from {a}.",
            "From {a} (subtract|deduct) {b}.",
        ],
        "take": [
            "(Please |Now |)(Take|Take away|Remove) {b} from {a}.",
            "Take {b} away from {a}.",
            "From {a} (take|take away|remove) {b}.",
        ],
        "can you subtract": [
            "(Can|Could|Would) you (please |)(subtract|take|take away|deduct) {b} from {a}( for"
            " me|)?"
        ],
        "get if subtract": [
            "What (do|will|would) (I|you|we) (get|have|obtain) (if|when) (I|you|we) (subtract|take|"
            "take away|remove|deduct) {b} from {a}?"
        ],
        "if subtract": [
            "If (I|you|we|{N}) (subtract|take|take away|remove) {b} from {a}, what (do I get|is the"
            " result|is left|is it|remains)?"
        ],
        "decrease": [
            "(Decrease|Reduce|Lower) {a} by {b}.",
            "What is {a} (decreased|reduced|lowered) by {b}?",
        ],
        "start": [
            (
                "(Take|Start with|Begin with|Start at|We have|I have) {a} and (subtract|take"
                " away|remove) {b}."
            ),
            (
                "Take {a}, then (subtract|take away) {b}. (What is it|What do you get|Result|How"
                " much)?"
            ),
        ],
        "left>": [
            (
                "(What|How much) is left (if|when) (I|you|we) (take|take away|subtract|remove) {b}"
                " from {a}?"
            ),
            "{a} take away {b} leaves (what|how much)?",
            "What (is left|remains) of {a} after taking away {b}?",
        ],
        "how much more>": [
            "How much (more|bigger|larger|greater) is {a} than {b}?",
            "By how much is {a} (more|bigger|larger|greater) than {b}?",
        ],
        "difference>": [
            (
                "(Find|Give me|Tell me|I need|Compute|Calculate|What is|) the difference"
                " (between|of) {a} and {b}."
            ),
            "What is the difference between {a} and {b}?",
            "{a} and {b}: what is the difference?",
        ],
        "need subtract": [
            "I (need|want|have) to (subtract|take|take away) {b} from {a}.",
            "How do I subtract {b} from {a}?",
        ],
        "story lose>": [
            "{N} (has|had|owns|counted) {a} {T} and (loses|sells|gives"
            " away|eats|spends|lost|sold|gave away|used|drops) {b}( of them| {T}|). How many {T}"
            " (are left|does {N} have left|remain|has {N} left)?"
        ],
        "story leave>": [
            "There (are|were) {a} {T} at the {P}. {b} (leave|are taken|are sold|are lost|are"
            " removed|go away). How many (remain|are left|{T} are left|stay)?"
        ],
        "story of>": [
            "Of {a} {T}, {b} are (broken|gone|sold|lost|missing). How many are (left|not|still"
            " there)?"
        ],
        "story compare>": [
            "{N} has {a} {T} and {M} has {b}. How many more( {T}|) does {N} have( than {M}|)?"
        ],
        "story pages>": [
            "A book has {a} pages. {N} has read {b}( pages| of them|). How many (pages |)are left(|"
            " to read)?"
        ],
        "story pay>": [
            "(I|{N}) (had|has|have) {a} (dollars|euros|cents) and (spent|paid|spends|pays) {b}."
            " (How much is left|How much money is left|What is left)?"
        ],
    },
    "*": {
        "multiply": [
            "(Please |Now |)Multiply {a} (by|and|with|times) {b}.",
            "{a} multiply by {b}.",
        ],
        "can you multiply": [
            "(Can|Could|Would) you (please |)multiply {a} (by|and|with) {b}( for me|)?"
        ],
        "get if multiply": [
            "What (do|will|would) (I|you|we) (get|have|obtain) (if|when) (I|you|we) multiply {a}"
            " (by|and|with) {b}?"
        ],
        "if multiply": [
            "If (I|you|we|{N}) (multiply|multiplies) {a} (by|and|with) {b}, what (do I get|is the"
            " result|is the product|is it)?"
        ],
        "take times": [
            "(Take|Start with|Begin with|We have|I have) {a} and multiply (it |)by {b}.",
            "Take {a} times {b}.",
        ],
        "product": [
            "(Find|Give me|Tell me|I need|Compute|Calculate) the product (of|for) {a} and {b}.",
            "{a} and {b}: what is the product?",
            "Product: {a}, {b}",
            "Numbers {a} and {b}. (Multiply them|Their product?)",
        ],
        "need multiply": [
            "I (need|want|have) to multiply {a} (by|and|with) {b}.",
            "How do I multiply {a} by {b}?",
        ],
        "story each": [
            "There are {a} {C} with {b} {T} (each|in each|per one). How many {T} (are there|in"
            " total|altogether|)?"
        ],
        "story hold": [
            "(Each|Every|One) (box|bag|crate|shelf|basket|pack|tray) (holds|has|contains) {a} {T}."
            " How many {T} (are in|do we have in|in) {b} {C}?"
        ],
        "story cost": [
            "(One|A|Each|Every) (book|ticket|pen|toy|bag|lamp|ball) costs {a}"
            " (cents|dollars|euros|pounds). (How much do|What do) {b} (cost|of them cost)?"
        ],
        "story people": [
            "{a} (people|students|players|workers) have {b} {T} each. How many {T} (do they have"
            " together|is that|in total|are there)?"
        ],
        "story rows": [
            "(There are |I have |We see |){a} rows of {b} {T}. How many {T} (in total|are there|is"
            " that)?"
        ],
        "story per": [
            "{N} (makes|sells|reads|buys|eats|uses) {a} {T} (a|per|each|every) (day|week|hour). How"
            " many in {b} (days|weeks|hours)?"
        ],
    },
}

# Never trained: families, and the expressions and frames in them.
NEW_EXPRESSIONS = {
    "+": (
        "{a} together with {b}|the result of adding {a} and {b}|the total {a} plus {b}|{a} and then"
        " {b} more"
    ),
    "-": (
        "the result of subtracting {b} from {a}|{a} when {b} is taken away|{a} minus the number {b}"
    ),
    "*": (
        "the result of multiplying {a} by {b}|{a} when multiplied by {b}|{a} times the number {b}|"
        "the number {a} multiplied by {b}"
    ),
}
NEW_ASKING = {
    "new mind": ["Would you mind (working out|computing|calculating) E for me?"],
    "new grateful": ["I'd be (grateful|glad|happy) if you could (give|compute|find) me E."],
    "new clue": ["Any (clue|guess|hint) what E (turns out to be|comes out as|might be)?"],
    "new run": ["(Crunch|Run|Process) this for {N}: E, and report back."],
    "new fill": ["Fill in the blank: E = ___"],
    "new curious": ["Curious about something... E?"],
    "new value": ["Could I get the (exact |)value of E from you?"],
    "new tells": ["{N} claims nobody can do E. Prove {N} wrong!"],
}
NEW_OWN = {
    "+": {
        "new add these": [
            "Here are two numbers, {a} and {b}; please add them.",
            "Add the following: {a}, {b}.",
        ],
        "new added": ["When {a} is added to {b}, which number results?"],
        "new story bus": [
            "A bus carries {a} {T}. At the {P} another {b} get in. How many does it carry now in"
            " total?"
        ],
        "new story save": [
            "{N} saved {a} dollars last year and {b} dollars this year. What is the total saved?"
        ],
    },
    "-": {
        "new subtracted": ["When {b} is subtracted from {a}, which number results?"],
        "new away": ["Begin at {a}; take away {b}; what number is this?"],
        "new story thrown>": ["Out of {a} {T}, {N} has lost {b}. What number of {T} is left?"],
        "new story still>": [
            "The {P} had {a} {T} but sold {b} of them today. How many are left there?"
        ],
    },
    "*": {
        "new multiplied": ["When {a} is multiplied by {b}, which number results?"],
        "new these": ["Here are two numbers, {a} and {b}; please multiply them."],
        "new story pack": [
            "{N} fills {a} {C}, and each of them holds {b} {T}. How many {T} is that?"
        ],
        "new story hour": [
            "A machine makes {a} {T} every hour. How many {T} does it make in {b} hours?"
        ],
    },
}

CHOICE = re.compile(r"\(([^()]*)\)")


def options(text):
    return [o.strip() for o in re.sub(r"\s+", " ", text).split("|")]


def families(op, new=False):
    """name -> function of a random generator that returns a text with {a} and {b}."""
    table = {}
    asking = {**ASKING, **NEW_ASKING} if new else ASKING
    known, unseen = options(EXPRESSIONS[op]), options(NEW_EXPRESSIONS[op])

    def ask(patterns, expressions):
        return lambda rng: fill(
            re.sub(r"\bE\b", lambda _: rng.choice(expressions), rng.choice(patterns)), rng
        )

    for name, patterns in asking.items():
        if new == (name in NEW_ASKING):
            table[name] = ask(patterns, known)
    if new:
        for i, expression in enumerate(unseen):
            table[f"new expression {i + 1}"] = ask(
                [
                    p
                    for name in ("what is", "command", "how much", "can you", "colon", "what does")
                    for p in ASKING[name]
                ],
                [expression],
            )
    for name, patterns in (NEW_OWN if new else OWN)[op].items():
        table[name] = lambda rng, patterns=patterns: fill(rng.choice(patterns), rng)
    return table


def fill(pattern, rng):
    """Choices and slots, but for {a} and {b}."""
    while True:
        match = CHOICE.search(pattern)
        if not match:
            break
        pattern = (
            pattern[: match.start()] + rng.choice(match[1].split("|")) + pattern[match.end() :]
        )
    who, other = rng.sample(NAMES, 2)
    for slot, value in (
        ("{N}", who),
        ("{M}", other),
        ("{T}", rng.choice(THINGS)),
        ("{C}", rng.choice(CONTAINERS)),
        ("{P}", rng.choice(PLACES)),
    ):
        pattern = pattern.replace(slot, value)
    return re.sub(" +", " ", pattern).strip()
