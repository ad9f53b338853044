"""Words for wording. What makes no difference to a problem is varied as much as possible, so that
the model learns to look for the two numbers and for what is to be done with them."""

NAMES = """Anna Ben Carla David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olga Paul Ravi
Sara Tom Uma Victor Wendy Yusuf Zoe Aisha Bruno Chen Diego Elena Farid Hana Ivan Julia Kofi Lena
Marco Nina Omar Priya Rosa Sam Tara Maria Peter John Mary Bob Alice Lucy Max Oscar Ella""".split()

THINGS = """apples oranges books coins pens marbles stamps cards eggs tickets stones shells
flowers bottles boxes cookies candies pencils chairs bricks nails cups buttons toys stickers
photos points dollars euros pages steps miles meters grams seeds leaves fish birds sheep cows
trees bags plates letters keys lamps potatoes tomatoes peanuts grapes cherries lemons balloons
ribbons beads tiles screws bolts wheels bikes cars students people visitors guests workers
players songs games files messages votes cents pounds kilos liters minutes hours days sweets
chocolates crayons notebooks magazines posters planks boards blocks rocks feathers socks shirts
hats gloves""".split()

CONTAINERS = """boxes bags crates rows shelves baskets packs buses teams classes trays cartons
piles tables jars rooms drawers cases bundles groups stacks albums trucks""".split()

PLACES = """shop school market farm library garden kitchen museum factory park station bakery
office town village warehouse theatre stadium""".split()

COMMON = """the a my your our this that some any every few many great small large old new young
good nice short long quick slow early late red blue green white black hot cold warm happy tired
busy free open quiet loud simple hard easy house street river mountain sea sky sun moon rain
snow wind cloud day night morning evening week month year time hour teacher student friend
mother father sister brother child doctor driver cook baker writer painter singer dog cat horse
bird tree flower leaf stone road bridge train car boat plane ship table chair door window wall
floor roof room book page letter word story song picture game ball test exam lesson homework
class school work job money price shop store market food bread milk cheese water coffee tea
sugar salt fruit is was has had will would can could should may might must do does did go goes
went come came see saw look looks walk run eat drink sleep read write talk speak tell told ask
asked say said think thought know knew like liked love want wanted need needed help helped try
tried start started stop stopped make made buy bought bring brought here there now then today
tomorrow yesterday soon again always never often sometimes maybe perhaps really very quite just
only also too well still already yet because while when where who which how why if but or so as
at by for in of on to with from up down over under about after before between through during
please sorry thanks hello ok sure right wrong true false yes no not nothing something anything
everything someone nobody everybody other another same different first last next own both each
all most such computer phone screen paper number question answer problem result value figure
math maths arithmetic""".split()

SYSTEMS = """You are a helpful assistant.
You are a careful calculator.
You are a maths teacher for young children.
Answer the question.
Think step by step and put the final answer in a box.
Please reason step by step, and put your final answer within \\boxed{}.
You are DeepSeek-R1, a model that thinks before it answers.
Be brief.
Be polite and precise.
You are a friendly bot.
Do not make mistakes.
You solve arithmetic problems.
You are a helpful and harmless assistant. You should think step-by-step.
Always show your work.
Give exact answers only.
The assistant is patient and kind.
You help pupils with their homework.
Reply in English.
You are an expert in arithmetic.
Keep calm and compute.
Today is a good day for sums.
The user is in a hurry.
You are a tutor.
Use plain language.
Take your time.""".split("\n")

# Said before or after the question itself.
BEFORE = """Please|Hi|Hello|Hi there|Hey|Good morning|Good evening|Dear assistant|Quick question|
Question|Problem|Task|Exercise|Homework|Next|OK|Okay|So|Well|Now|Sorry|Excuse me|Help me|Help|
I need help|Can you help me|One more|Another one|Here is one|Try this|Let's see|Listen|Tell me|
Thanks|Thank you|Great|I have a question|This is my homework|My teacher asks|I wonder|
I am not sure|Math question|Maths|Think carefully|Be careful|Take your time|
Let me ask you something|Here's a problem|Now this|And now|Right|Alright|Step by step|
I was wondering|For my homework|For school|Just curious|Easy one|Hard one|Last one|First question""".replace(
    "\n", ""
).split(
    "|"
)

AFTER = """Please|Thanks|Thank you|Thank you very much|Show your work|Think step by step|
Step by step please|Be careful|Take your time|I need the exact number|Just the number|
Give the result|Give me the answer|What is the answer|What is the result|Answer please|
Put your final answer in a box|
Please reason step by step, and put your final answer within \\boxed{}|Do you know|Any idea|
I forgot|I can't do it in my head|Tell me|Explain|Show me how|No calculator|Quickly|Hurry up|
Work it out|Solve it|That is all|I will wait|It is for school|My teacher wants to know|
Write the answer in a box|Cheers|Help me please|Don't make a mistake|Let me know|Can you|
Could you|Go|OK|Right|Compute it|Find the answer|Calculate it|Give the final number|
How much is it|How much is that|What do you get|What does it make|What does that come to|Solve|
Compute|Your answer|Write it out|Step by step""".replace("\n", "").split("|")

OFF_TOPIC = """Hello|Hi|Hi there|Hey|Good morning|How are you|Who are you|What can you do|Thanks|
Thank you|Great|Tell me a joke|What is your name|Write a poem|What is the capital of France|
Do you like music|Goodbye|Bye|Help|Can you help me|I am bored|What is the weather today|
Sing a song|Tell me a story|OK|Cool|Well done|Good job|Are you a robot|Where are you from|
What time is it|Who made you|Explain physics|Translate this|Nice to meet you|What is love|
Why is the sky blue|Do you speak English|How does this work|What are you""".replace("\n", "").split(
    "|"
)


def invented(rng):
    """A word that does not exist."""
    return "".join(
        rng.choice("bcdfghjklmnprstvwz")
        + rng.choice(("a", "e", "i", "o", "u", "ee", "ou", "ar", "in"))
        for _ in range(rng.randint(1, 3))
    ) + rng.choice(("", "", "n", "s", "t", "ng", "ed", "ly"))


def word(rng):
    return rng.choice(COMMON) if rng.random() < 0.8 else invented(rng)


def salad(rng, least, most):
    return " ".join(word(rng) for _ in range(rng.randint(least, most)))


def sentence(rng):
    """A sentence without numbers that says nothing about what to compute."""
    who, other, place = rng.choice(NAMES), rng.choice(NAMES), rng.choice(PLACES)
    thing = rng.choice(THINGS)
    pick = rng.randrange(12)
    if pick == 0:
        return f"{who} is at the {place}."
    if pick == 1:
        return f"My friend {who} asked me this."
    if pick == 2:
        return f"{who} and {other} like {thing}."
    if pick == 3:
        return f"I am at the {place} with {who}."
    if pick == 4:
        return f"{who} wants to know."
    if pick == 5:
        return f"There are {thing} at the {place}."
    if pick == 6:
        return f"{who} loves numbers."
    text = salad(rng, 3, 9)
    return text[0].upper() + text[1:] + rng.choice((".", ".", ".", "!", "?"))
