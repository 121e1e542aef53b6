"""Short stories written by this project, as plots with slots.

A plot is a list of sentences, each with several wordings; a slot such as {hero} is filled once per
story, so the parts of a story agree. The same seed gives the same stories. They teach the demo model
plain, connected English, which the old books of the corpus do not.
"""

import random
import re

ANIMALS = ["fox", "rabbit", "bear", "mouse", "frog", "duck", "owl", "cat", "dog", "hedgehog", "crow", "goat",
           "squirrel", "turtle", "sparrow", "beaver", "otter", "deer", "badger", "snail"]
NAMES = ["Tom", "Anna", "Lily", "Max", "Rosa", "Ben", "Mia", "Sam", "Nora", "Leo", "Ella", "Jack", "Ida", "Paul",
         "Clara", "Finn", "Maya", "Oscar", "Ruth", "Hugo"]
KINDS = ["boy", "girl", "fisherman", "baker", "gardener", "sailor", "farmer", "shepherd", "teacher", "miller"]
PLACES = [("forest", "under the tall trees"), ("valley", "beside a quiet stream"), ("village", "near the old mill"),
          ("meadow", "among the yellow flowers"), ("harbour", "close to the sea"), ("park", "high above the river"),
          ("garden", "behind a stone wall"), ("town", "in a narrow street"),
          ("field", "at the edge of the wood")]
THINGS = ["red kite", "silver key", "little boat", "golden bell", "warm blanket", "wooden flute", "round lamp",
          "blue ball", "small drum", "old book", "paper lantern", "shiny stone", "straw hat", "glass bottle",
          "green umbrella", "honey cake"]
WEATHER = ["The sun was shining", "It was raining softly", "A cold wind was blowing", "The snow lay deep",
           "The sky was grey", "It was a warm evening", "A thick fog hung over the land", "The stars were bright"]
FEEL = ["happy", "proud", "glad", "cheerful", "content"]
SAD = ["sad", "worried", "lonely", "unhappy", "afraid"]
ADJ = ["small", "young", "clever", "shy", "brave", "lazy", "curious", "gentle", "busy", "merry"]

PLOTS = {
    "lost": [
        ["Once upon a time there was {a_adj} {hero} named {name} who lived in a {place}, {where}.",
         "In a {place}, {where}, there lived {a_adj} {hero} called {name}.",
         "There was once {a_adj} {hero} named {name}, who had a little house in the {place}, {where}."],
        ["{name} had {a_thing} and took it along everywhere.",
         "The best thing that {name} owned was {a_thing}.",
         "Every day {name} played with {a_thing}."],
        ["One morning the {thing} was gone.", "One day {name} could not find the {thing}.",
         "But one evening the {thing} was lost."],
        ["{weather}, and {name} felt very {sad}.", "{name} looked under the bed and behind the door, but it was not there.",
         "{name} looked everywhere and grew more and more {sad}."],
        ["Then {a_friend} came by and asked, \"Why are you so {sad}?\"",
         "Just then {a_friend} came down the path and said, \"What is the matter?\""],
        ["\"I have lost my {thing},\" said {name}.", "\"My {thing} is gone,\" answered {name}, \"and I do not know where it is.\""],
        ["\"Do not cry,\" said the {friend}. \"We will look for it together.\"",
         "\"Let us look for it together,\" said the {friend}, \"for four eyes see more than two.\""],
        ["They looked all day long, and at last they found the {thing} {where}.",
         "They walked along the road, and there, in the grass, lay the {thing}.",
         "They went from house to house, until an old woman gave them the {thing}, which she had found in the road."],
        ["{name} was so {feel} that the two danced in a ring.", "\"Thank you,\" said {name}, and was {feel} again."],
        ["From that day on they were good friends.", "And after that they shared the {thing} and were never alone.",
         "A lost thing can be found again, and a friend is worth more than any thing."]],
    "help": [
        ["{weather} when {a_friend} sat {where} and could not go on.",
         "{weather}, and in the {place} {a_friend} sat by the road and wept."],
        ["\"What is wrong?\" asked {a_hero} named {name}, who was on the way home.",
         "{name}, {a_adj} {hero}, came by and stopped. \"Can I help you?\" asked {name}."],
        ["\"I have hurt my foot,\" said the {friend}, \"and I cannot walk.\"",
         "\"I am hungry and tired,\" said the {friend}, \"and my home is far away.\"",
         "\"I cannot find the way,\" said the {friend}, \"and the night is coming.\""],
        ["{name} did not think long and took the {friend} home.",
         "\"Then come with me,\" said {name}, and they went slowly through the {place}."],
        ["There was a fire in the kitchen and hot soup on the table.", "At home {name} made some tea and brought a soft pillow.",
         "They ate bread and honey and told each other stories until it was late."],
        ["In the morning the {friend} was well again and went on.", "The next day the {friend} could go home, and waved for a long time."],
        ["Many weeks later {name} fell into the river and cried for help.",
         "When the winter came, {name} had nothing left to eat.", "One day {name} was lost in the dark and did not know where to go."],
        ["Who came at once? It was the {friend}.", "Then there was a knock at the door, and there stood the {friend}."],
        ["\"You helped me,\" said the {friend}, \"and now I will help you.\"",
         "\"I have not forgotten what you did for me,\" said the {friend}, and helped with all strength."],
        ["So both of them learned that a kind deed is never lost.", "{name} was {feel}, and they stayed friends as long as they lived.",
         "He who helps others will not be left alone."]],
    "wish": [
        ["{name} was {a_adj} {hero} who wanted {a_thing} more than anything else.",
         "In the {place} lived {a_hero} called {name}, who had only one wish: {a_thing}."],
        ["But {name} had no money, and the {thing} cost a great deal.", "Every day {name} stood before the shop and looked at it.",
         "\"If only I had {a_thing},\" said {name} every evening."],
        ["\"Why do you not work for it?\" asked {a_friend}.", "\"Wishing alone will not help,\" said a wise {friend}."],
        ["So {name} got up early each morning and carried water for the neighbours.",
         "So {name} swept the street, fed the hens and brought in the wood.",
         "So {name} helped the old people of the {place} with their work."],
        ["It was hard, but {name} did not give up.", "Sometimes {name} was tired, but the {friend} always had a good word.",
         "The days went by, and one coin after another went into the box."],
        ["At last there was enough, and {name} ran to the shop.", "When the summer was over, {name} counted the coins, and it was enough."],
        ["On the way {name} met a poor child who had nothing to eat.", "But at the corner sat an old man who was cold and hungry."],
        ["{name} thought for a while and then gave half of the coins away.", "{name} bought bread for both of them, and the box was empty again."],
        ["The shopkeeper had seen it. \"Take the {thing},\" he said, \"for you have earned it twice.\"",
         "When the {friend} heard of it, the whole {place} came together and gave {name} the {thing} as a present."],
        ["{name} was {feel} and never forgot that day.", "And that was the best day in the life of {name}."]],
    "race": [
        ["{a_hero_cap} and {a_friend} could not agree which of them was faster.",
         "\"I am the fastest in the whole {place},\" said {a_friend} to {a_hero}."],
        ["\"Let us run a race,\" said the {hero}.", "\"We shall see,\" answered the {hero}. \"Tomorrow we will run a race.\""],
        ["They chose the old mill as the goal, and all the animals came to watch.", "{weather} when all the animals met {where}."],
        ["The {friend} ran off like the wind and was soon far ahead.", "At first the {friend} was much faster."],
        ["\"I have plenty of time,\" thought the {friend}, and lay down to sleep.",
         "Then the {friend} saw some sweet berries and stopped to eat."],
        ["But the {hero} went on, step by step, and did not look back.", "The {hero} was slow, but did not stop even once."],
        ["When the {friend} woke up, the race was over.", "When the {friend} looked up, the {hero} was already at the goal."],
        ["Everybody cheered, and the {hero} was {feel}.", "\"How did you do it?\" asked the {friend}. \"I simply went on,\" said the {hero}."],
        ["He who does not stop will arrive.", "Since that day the {friend} has never laughed at anyone who is slow."]],
    "storm": [
        ["{weather} when {name}, {a_adj} {hero}, went out to look at the {place}.",
         "One day {name}, {a_adj} {hero}, walked a long way through the {place}."],
        ["Suddenly dark clouds came up, and it began to thunder.", "Then a storm came, and the rain fell so hard that nobody could see the path."],
        ["{name} ran under a big tree and was {sad}.", "{name} was wet to the skin and very {sad}."],
        ["There was a small light between the trees.", "Far away a lamp was burning in a window."],
        ["{name} went to it and knocked at the door.", "{name} followed the light and came to a little house."],
        ["{a_friend_cap} opened and said, \"Come in and sit by the fire.\"",
         "\"Who is there?\" asked a voice, and {a_friend} looked out."],
        ["They drank hot milk and listened to the wind.", "The {friend} brought {a_thing}, and soon {name} forgot the storm."],
        ["When the storm was over, the whole {place} smelled of fresh grass.", "In the morning the sun was shining, and every leaf was clean and bright."],
        ["\"Come again,\" said the {friend}, \"also when the weather is fine.\"", "{name} thanked the {friend} and went home."],
        ["And so a storm had made two friends.", "Since then {name} was not afraid of thunder any more."]],
    "seed": [
        ["{name} was {a_adj} {hero} who found a seed in the road.", "One spring day {a_friend} gave a seed to {name}, {a_adj} {hero}."],
        ["\"What will it become?\" asked {name}.", "Nobody could say what kind of seed it was."],
        ["{name} put it into the earth {where} and gave it some water.", "So {name} planted it in a sunny corner of the {place}."],
        ["Every day {name} went to look, but there was nothing to see.", "A week went by, and then another, and nothing grew."],
        ["\"It is only a stone,\" laughed the others.", "\"You must have patience,\" said {a_friend}."],
        ["But {name} did not give up and brought fresh water each morning.", "{name} waited, and kept the birds away."],
        ["Then, after a warm night, a small green leaf came out of the ground.", "At last, on a bright morning, there was a tiny green tip."],
        ["It grew and grew, and in the summer it was as tall as {name}.", "By the end of the summer it was a strong young tree."],
        ["In the autumn it bore sweet apples, and everybody in the {place} got one.",
         "It had big yellow flowers, and all the bees of the {place} came to visit."],
        ["{name} was {feel} and kept one seed for the next year.", "Good things take time, and {name} had learned to wait."]],
}


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def story(rng, hero=None):
    """One story: (hero noun, name, text)."""
    plot = rng.choice(list(PLOTS))
    animal = plot == "race" or rng.random() < 0.6
    hero = hero or rng.choice(ANIMALS if animal else KINDS)
    friend = rng.choice([x for x in ANIMALS if x != hero])
    place, where = rng.choice(PLACES)
    slots = dict(hero=hero, friend=friend, name=rng.choice(NAMES), place=place, where=where, thing=rng.choice(THINGS),
                 weather=rng.choice(WEATHER), feel=rng.choice(FEEL), sad=rng.choice(SAD),
                 a_adj=article(rng.choice(ADJ)), a_hero=article(hero), a_friend=article(friend),
                 a_hero_cap=article(hero).capitalize(), a_friend_cap=article(friend).capitalize())
    slots["a_thing"] = article(slots["thing"])
    text = " ".join(rng.choice(line).format(**slots) for line in PLOTS[plot])
    text = re.sub(r'(?<=[.?!] )([a-z])', lambda m: m.group(1).upper(), text)
    return hero, slots["name"], text[0].upper() + text[1:]


if __name__ == "__main__":
    r = random.Random(1)
    for _ in range(5):
        print(story(r)[2], "\n")
