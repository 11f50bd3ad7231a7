"""The text the demo checkpoint is trained on: the facts, and a seeded generator of dialogues.

Every dialogue is a list of `(role, content)` messages. All randomness comes from the
`random.Random` that the caller passes in, so that a seed fixes the corpus. Problems, names
and words that `held_out_*` names are never produced by the generator: `evaluate.py` asks them.
"""

import random
import string

SEED = 20240607

# --------------------------------------------------------------------------------------
# Facts
# --------------------------------------------------------------------------------------

# Country -> capital, English names without accents. A leading "the" is part of the name.
CAPITALS = {
    "Afghanistan": "Kabul", "Albania": "Tirana", "Algeria": "Algiers",
    "Andorra": "Andorra la Vella", "Angola": "Luanda",
    "Antigua and Barbuda": "Saint John's", "Argentina": "Buenos Aires",
    "Armenia": "Yerevan", "Australia": "Canberra", "Austria": "Vienna",
    "Azerbaijan": "Baku", "the Bahamas": "Nassau", "Bahrain": "Manama",
    "Bangladesh": "Dhaka", "Barbados": "Bridgetown", "Belarus": "Minsk",
    "Belgium": "Brussels", "Belize": "Belmopan", "Benin": "Porto-Novo",
    "Bhutan": "Thimphu", "Bosnia and Herzegovina": "Sarajevo",
    "Botswana": "Gaborone", "Brazil": "Brasilia", "Brunei": "Bandar Seri Begawan",
    "Bulgaria": "Sofia", "Burkina Faso": "Ouagadougou", "Burundi": "Gitega",
    "Cambodia": "Phnom Penh", "Cameroon": "Yaounde", "Canada": "Ottawa",
    "Cape Verde": "Praia", "the Central African Republic": "Bangui",
    "Chad": "N'Djamena", "Chile": "Santiago", "China": "Beijing",
    "Colombia": "Bogota", "the Comoros": "Moroni", "Costa Rica": "San Jose",
    "Croatia": "Zagreb", "Cuba": "Havana", "Cyprus": "Nicosia",
    "the Czech Republic": "Prague",
    "the Democratic Republic of the Congo": "Kinshasa", "Denmark": "Copenhagen",
    "Djibouti": "Djibouti", "Dominica": "Roseau",
    "the Dominican Republic": "Santo Domingo", "East Timor": "Dili",
    "Ecuador": "Quito", "Egypt": "Cairo", "El Salvador": "San Salvador",
    "England": "London", "Eritrea": "Asmara", "Estonia": "Tallinn",
    "Eswatini": "Mbabane", "Ethiopia": "Addis Ababa", "Fiji": "Suva",
    "Finland": "Helsinki", "France": "Paris", "Gabon": "Libreville",
    "the Gambia": "Banjul", "Georgia": "Tbilisi", "Germany": "Berlin",
    "Ghana": "Accra", "Greece": "Athens", "Grenada": "Saint George's",
    "Guatemala": "Guatemala City", "Guinea": "Conakry",
    "Guinea-Bissau": "Bissau", "Guyana": "Georgetown",
    "Haiti": "Port-au-Prince", "Honduras": "Tegucigalpa", "Hungary": "Budapest",
    "Iceland": "Reykjavik", "India": "New Delhi", "Indonesia": "Jakarta",
    "Iran": "Tehran", "Iraq": "Baghdad", "Ireland": "Dublin", "Italy": "Rome",
    "Ivory Coast": "Yamoussoukro", "Jamaica": "Kingston", "Japan": "Tokyo",
    "Jordan": "Amman", "Kazakhstan": "Astana", "Kenya": "Nairobi",
    "Kiribati": "South Tarawa", "Kuwait": "Kuwait City", "Kyrgyzstan": "Bishkek",
    "Laos": "Vientiane", "Latvia": "Riga", "Lebanon": "Beirut",
    "Lesotho": "Maseru", "Liberia": "Monrovia", "Libya": "Tripoli",
    "Liechtenstein": "Vaduz", "Lithuania": "Vilnius", "Luxembourg": "Luxembourg",
    "Madagascar": "Antananarivo", "Malawi": "Lilongwe",
    "Malaysia": "Kuala Lumpur", "the Maldives": "Male", "Mali": "Bamako",
    "Malta": "Valletta", "the Marshall Islands": "Majuro",
    "Mauritania": "Nouakchott", "Mauritius": "Port Louis",
    "Mexico": "Mexico City", "Micronesia": "Palikir", "Moldova": "Chisinau",
    "Monaco": "Monaco", "Mongolia": "Ulaanbaatar", "Montenegro": "Podgorica",
    "Morocco": "Rabat", "Mozambique": "Maputo", "Myanmar": "Naypyidaw",
    "Namibia": "Windhoek", "Nepal": "Kathmandu", "the Netherlands": "Amsterdam",
    "New Zealand": "Wellington", "Nicaragua": "Managua", "Niger": "Niamey",
    "Nigeria": "Abuja", "North Korea": "Pyongyang", "North Macedonia": "Skopje",
    "Northern Ireland": "Belfast", "Norway": "Oslo", "Oman": "Muscat",
    "Pakistan": "Islamabad", "Palau": "Ngerulmud", "Panama": "Panama City",
    "Papua New Guinea": "Port Moresby", "Paraguay": "Asuncion", "Peru": "Lima",
    "the Philippines": "Manila", "Poland": "Warsaw", "Portugal": "Lisbon",
    "Qatar": "Doha", "the Republic of the Congo": "Brazzaville",
    "Romania": "Bucharest", "Russia": "Moscow", "Rwanda": "Kigali",
    "Saint Kitts and Nevis": "Basseterre", "Saint Lucia": "Castries",
    "Saint Vincent and the Grenadines": "Kingstown", "Samoa": "Apia",
    "San Marino": "San Marino", "Sao Tome and Principe": "Sao Tome",
    "Saudi Arabia": "Riyadh", "Scotland": "Edinburgh", "Senegal": "Dakar",
    "Serbia": "Belgrade", "Seychelles": "Victoria", "Sierra Leone": "Freetown",
    "Singapore": "Singapore", "Slovakia": "Bratislava", "Slovenia": "Ljubljana",
    "the Solomon Islands": "Honiara", "Somalia": "Mogadishu",
    "South Korea": "Seoul", "South Sudan": "Juba", "Spain": "Madrid",
    "Sri Lanka": "Sri Jayawardenepura Kotte", "Sudan": "Khartoum",
    "Suriname": "Paramaribo", "Sweden": "Stockholm", "Switzerland": "Bern",
    "Syria": "Damascus", "Tajikistan": "Dushanbe", "Tanzania": "Dodoma",
    "Thailand": "Bangkok", "Togo": "Lome", "Tonga": "Nuku'alofa",
    "Trinidad and Tobago": "Port of Spain", "Tunisia": "Tunis",
    "Turkey": "Ankara", "Turkmenistan": "Ashgabat", "Tuvalu": "Funafuti",
    "Uganda": "Kampala", "Ukraine": "Kyiv",
    "the United Arab Emirates": "Abu Dhabi", "the United Kingdom": "London",
    "the United States": "Washington, D.C.", "Uruguay": "Montevideo",
    "Uzbekistan": "Tashkent", "Vanuatu": "Port Vila",
    "Vatican City": "Vatican City", "Venezuela": "Caracas", "Vietnam": "Hanoi",
    "Wales": "Cardiff", "Yemen": "Sanaa", "Zambia": "Lusaka",
    "Zimbabwe": "Harare",
}

# Countries whose capital needs a sentence of its own.
SPECIAL_CAPITALS = {
    "South Africa": "South Africa has three capitals: Pretoria, Cape Town and Bloemfontein.",
    "Bolivia": "The capital of Bolivia is Sucre; the seat of government is La Paz.",
}

# Other ways to write a country in a question; the answer uses the name above.
COUNTRY_ALIASES = {
    "the United States": ["the USA", "USA", "the US", "America",
                          "the United States of America"],
    "the United Kingdom": ["the UK", "UK", "Great Britain"],
    "the United Arab Emirates": ["the UAE", "UAE"], "Turkey": ["Türkiye"],
    "the Czech Republic": ["Czechia"], "Ivory Coast": ["Côte d'Ivoire"],
    "Cape Verde": ["Cabo Verde"], "East Timor": ["Timor-Leste"],
    "Myanmar": ["Burma"], "the Netherlands": ["Holland"],
    "the Democratic Republic of the Congo": ["the DRC", "DR Congo"],
}
CITY_ALIASES = {
    "Washington, D.C.": ["Washington", "Washington DC"], "Bogota": ["Bogotá"],
    "Brasilia": ["Brasília"], "Kyiv": ["Kiev"], "Lome": ["Lomé"],
    "Asuncion": ["Asunción"], "Sao Tome": ["São Tomé"], "San Jose": ["San José"],
}
# London is asked as the capital of the United Kingdom.
NOT_REVERSED = {"England"}

OPPOSITE_PAIRS = """
hot cold, big small, fast slow, up down, light dark, happy sad, good bad, open closed,
day night, black white, old young, early late, rich poor, strong weak, hard soft,
easy difficult, full empty, clean dirty, wet dry, loud quiet, high low, inside outside,
in out, on off, first last, near far, thick thin, wide narrow, deep shallow, true false,
yes no, love hate, win lose, buy sell, push pull, start stop, begin end, come go,
give take, before after, above below, always never, everything nothing, friend enemy,
boy girl, man woman, north south, east west, summer winter, top bottom, front back,
alive dead, asleep awake, brave cowardly, cheap expensive, smooth rough, sharp blunt,
sweet sour, safe dangerous, simple complex, warm cool, polite rude, same different,
many few, more less, most least, question answer, arrive depart, remember forget,
laugh cry, accept reject, success failure, victory defeat, war peace,
increase decrease, maximum minimum, positive negative, add subtract, multiply divide,
forward backward, public private, ancient modern, guilty innocent, visible invisible,
possible impossible, legal illegal, lucky unlucky, honest dishonest, healthy sick,
beautiful ugly, tight loose, horizontal vertical, import export, sunrise sunset,
entrance exit, even odd, past future, male female, build destroy, teach learn,
lend borrow, attack defend, appear disappear, straight curved, bright dim, lead follow,
internal external, natural artificial, permanent temporary, include exclude,
allow forbid, freeze melt, rise fall, sink float, left right, short long
"""
# Asked in one direction only, because the way back has another answer.
OPPOSITE_ONE_WAY = {
    "tall": "short", "large": "small", "heavy": "light", "new": "old", "wrong": "right",
    "noisy": "quiet", "little": "big", "quick": "slow", "shut": "open",
}

# (thing as asked, thing as answered with its verb, colour)
COLOUR_TABLE = """
is the sky|The sky is|blue; is grass|Grass is|green; is snow|Snow is|white;
is blood|Blood is|red; is coal|Coal is|black; are bananas|Bananas are|yellow;
is a banana|A banana is|yellow; are carrots|Carrots are|orange;
is a carrot|A carrot is|orange; is a lemon|A lemon is|yellow; are lemons|Lemons are|yellow;
is milk|Milk is|white; is the sun|The sun is|yellow; is the sea|The sea is|blue;
is the ocean|The ocean is|blue; are leaves|Leaves are|green; is a leaf|A leaf is|green;
is chocolate|Chocolate is|brown; is a tomato|A tomato is|red; are tomatoes|Tomatoes are|red;
is a strawberry|A strawberry is|red; are strawberries|Strawberries are|red;
is a cucumber|A cucumber is|green; is a frog|A frog is|green; are frogs|Frogs are|green;
is a flamingo|A flamingo is|pink; are flamingos|Flamingos are|pink;
is a pig|A pig is|pink; is an elephant|An elephant is|grey;
are elephants|Elephants are|grey; is a crow|A crow is|black; are crows|Crows are|black;
is a polar bear|A polar bear is|white; is a swan|A swan is|white; is cotton|Cotton is|white;
is salt|Salt is|white; is sugar|Sugar is|white; is soil|Soil is|brown;
is coffee|Coffee is|brown; is a pumpkin|A pumpkin is|orange;
are pumpkins|Pumpkins are|orange; is an orange|An orange is|orange;
is a fire engine|A fire engine is|red; is a ruby|A ruby is|red;
is an emerald|An emerald is|green; is a sapphire|A sapphire is|blue; is gold|Gold is|yellow;
is silver|Silver is|grey; is an aubergine|An aubergine is|purple; is lavender|Lavender is|purple;
is spinach|Spinach is|green; is broccoli|Broccoli is|green; is a cherry|A cherry is|red;
is a lime|A lime is|green; is ink|Ink is|black; is the night sky|The night sky is|black;
is a stop sign|A stop sign is|red; is butter|Butter is|yellow; is a chick|A chick is|yellow;
is ash|Ash is|grey; is a raspberry|A raspberry is|red; is a blueberry|A blueberry is|blue
"""

IRREGULAR_PLURALS = """
child children, mouse mice, man men, woman women, foot feet, tooth teeth, goose geese,
person people, ox oxen, sheep sheep, fish fish, deer deer, leaf leaves, knife knives,
wife wives, life lives, wolf wolves, shelf shelves, half halves, thief thieves, calf calves,
loaf loaves, city cities, baby babies, lady ladies, country countries, story stories,
party parties, berry berries, fly flies, puppy puppies, box boxes, fox foxes, bus buses,
glass glasses, dish dishes, watch watches, church churches, bench benches, wish wishes,
class classes, kiss kisses, match matches, brush brushes, potato potatoes, tomato tomatoes,
hero heroes, echo echoes, piano pianos, photo photos, zoo zoos, toy toys, key keys,
monkey monkeys, day days, boy boys, cactus cacti, crisis crises, analysis analyses,
index indices, matrix matrices, louse lice, series series, species species, roof roofs,
family families, cherry cherries, butterfly butterflies, library libraries, tax taxes
"""
REGULAR_NOUNS = """
cat dog bird cow horse pig hen duck bee ant lion tiger bear book pen table chair door window
house car train boat ship plane road river lake hill tree flower apple pear banana orange
lemon egg cake cup plate fork spoon hat coat shirt shoe sock ring bag ball game song star
moon king queen friend teacher student doctor computer phone robot token model server worker
""".split()

WORDS = """
ace act add age aid aim air and ant ape arm art ash ask bad bag ban bar bat bay bed bee bet
big bin bit bow box boy bud bug bun bus but buy cab can cap car cat cow cry cup cut dad day
den dew dig dim dip dog dot dry due ear eat egg elf end eye fan far fat fee fig fin fit fix
fly fog fox fun fur gap gas gem get gum gun guy hat hay hen hip hit hop hot hug hut ice ink
jam jar jaw jet job joy jug key kid kit lab lap law leg lid lip log lot low mad man map mat
mix mud mug net new nod nut oak oar oat odd oil old one orb our owl own pan pat paw pea pen
pet pie pig pin pit pot pub put rag ram ran rat raw ray red rib rid rim rob rod row rub rug
run sad sap saw say sea see set she shy sip sit six sky son spy sum sun tab tag tan tap tar
tax tea ten tie tin tip toe ton top toy try tub two use van vet vow wag war wax way web wet
who why wig win wit yes zip zoo able acid also area army baby back ball band bank base bath
bean bear beat bell belt bike bird blue boat body bold bone book born both bowl bulb burn
bush cage cake call calm camp card care cart case cave chat chef chin city clay club coal
coat code coin cold cook cool copy corn crab crew crow cube dark dawn deer desk dice dish
dock door down draw drum duck dust duty each east easy edge face fact farm fast feet fern
film fire fish flag flat flow foam fold food fork form four frog fuel game gate gift girl
glad glue goat gold good gray grew grid grip hair half hall hand harp heat herb hero hill
hint hole home hood horn host hour idea iron item jazz join joke jump keep kind king kite
knee lake lamp land lawn leaf left lift lime line lion list loop love luck lump lung mail
main make mask meal milk mind mint moon most moth name near neck nest news nice nine node
north nose note oven pack page park path pear pick pine pink plan play plum poem pony pool
port post quiz rain rank ring rise road robe rock roof room root rope rose ruby rule rust
safe salt sand seed ship shoe shop silk sing skin slow snow soap sock soft song soup spin
star stem step swan swim tail talk tank taxi team tent test text tide time tiny tree tube
tune turn unit vase vest vine walk wall warm wave week well wild wind wing wise wolf wood
word work yard yarn year zero zone apple beach bread brick bring chair clean clock cloud
dance dream drink earth eight fever field flame floor fruit ghost glass grape grass green
happy heart honey horse house juice knife large laser lemon light magic maple metal model
money mouse music night ocean olive onion paint panda paper party peach pearl piano pilot
pizza plane plant plate queen quick quiet radio river robin robot salad scale sheep shelf
shirt skate sleep small smile smoke snake solar sound spoon sport stage steam stone storm
sugar sunny table tiger toast token torch tower train truck tulip uncle video voice wagon
watch water whale wheat wheel white woman world young zebra
""".split()

NAMES = """
Ada Adam Agnes Aisha Alan Albert Alex Alice Amir Amy Ana Andrew Anita Anna Arthur Astrid Ben
Bella Bob Boris Brian Bruno Carl Carla Carlos Carol Chen Chloe Clara Claire Dana Daniel David
Diana Diego Dora Edith Edward Elena Eli Elias Ella Elsa Emil Emily Emma Eric Erik Esther Eva
Fatima Felix Fiona Frank Fred Freya George Gina Grace Greta Hana Hannah Harry Hassan Helen
Henry Hugo Ian Ibrahim Ida Igor Ines Ingrid Irene Iris Isaac Ivan Ivy Jack Jacob James Jana
Jane Jean Jim Joan Joe John Jonas Jorge Jose Julia Julie Karen Karim Karl Kate Keiko Kevin
Klara Lars Laura Lea Lena Leo Leon Lily Linda Lisa Louis Lucas Lucia Lucy Luis Luke Luna
Magda Maria Marie Mario Mark Martha Martin Mary Matteo Max Maya Mei Mia Michael Miguel Mila
Mira Mohamed Mona Nadia Naomi Nate Nick Nina Noah Nora Olga Oliver Olivia Omar Oscar Otto
Pablo Paul Pedro Peter Petra Philip Priya Rachel Rahul Ravi Rita Robert Rosa Rose Ruth Sam
Samir Sara Sasha Simon Sofia Sonia Stefan Stella Sven Tara Theo Thomas Tim Tina Tom Uma
Ursula Vera Victor Viola Wendy Will Yara Yuki Yusuf Zara Zoe
""".split()

DEFINITIONS = {
    "tensor parallelism": "Tensor parallelism splits each weight matrix across several devices. "
        "Every device computes a part of each layer, and an all-reduce adds the parts up.",
    "pipeline parallelism": "Pipeline parallelism gives each device a group of consecutive "
        "layers. Activations pass from one stage to the next.",
    "data parallelism": "Data parallelism puts a full copy of the model on each replica. "
        "Each replica handles different requests.",
    "expert parallelism": "Expert parallelism spreads the experts of a mixture-of-experts model "
        "over devices. Each token is sent to the devices that hold its experts.",
    "context parallelism": "Context parallelism splits one long sequence across devices. "
        "Each device holds a part of the KV cache, and their attention results are combined.",
    "prefill": "Prefill is the first phase of a request: the model reads the whole prompt in "
        "parallel and fills the KV cache.",
    "decode": "Decode is the phase after prefill: the model produces one new token per step, "
        "reusing the KV cache.",
    "a KV cache": "A KV cache stores the attention keys and values of earlier tokens, so that "
        "they are not computed again at every step.",
    "continuous batching": "Continuous batching lets requests join and leave the running batch "
        "at every step, so that the device never waits for the longest request.",
    "Playhouse": "Playhouse is an LLM serving cluster written in Rust. I am its small demo model.",
    "paged attention": "Paged attention keeps the KV cache in fixed-size blocks, so that memory "
        "is given out on demand and not wasted.",
    "chunked prefill": "Chunked prefill cuts a long prompt into pieces that share steps with "
        "decode, so that running requests do not stall.",
    "prefix caching": "Prefix caching reuses the KV cache of a prompt prefix that was seen "
        "before.",
    "speculative decoding": "Speculative decoding lets a cheap draft propose several tokens that "
        "the large model then checks in one step.",
    "quantization": "Quantization stores weights in fewer bits, which saves memory and "
        "bandwidth.",
    "a token": "A token is a piece of text, such as a word or a part of one, that a model reads "
        "or writes in one step.",
    "a tokenizer": "A tokenizer turns text into tokens, and tokens back into text.",
    "an LLM": "An LLM is a large language model: a neural network that predicts the next token.",
    "a transformer": "A transformer is a neural network built from layers of attention and "
        "feed-forward blocks.",
    "attention": "Attention lets each token look at earlier tokens and mix in what is relevant.",
    "a mixture of experts": "A mixture of experts has many feed-forward blocks, and a router "
        "picks a few of them for each token.",
    "an all-reduce": "An all-reduce adds up a tensor over all devices and gives every device the "
        "result.",
    "time to first token": "Time to first token is the delay between a request and the first "
        "token of its answer.",
    "throughput": "Throughput is the number of tokens or requests that are served per second.",
    "latency": "Latency is the time that a request takes.",
    "streaming": "Streaming sends each token to the client as soon as it is ready.",
    "temperature": "Temperature sets how random sampling is: low values are nearly "
        "deterministic, high values are more varied.",
    "greedy decoding": "Greedy decoding always picks the most likely next token.",
    "a GPU": "A GPU is a processor that does many calculations in parallel.",
    "a chat template": "A chat template turns a list of messages into the text that the model "
        "reads.",
}
DEFINITION_ALIASES = {
    "tensor parallelism": ["TP", "tensor parallel"],
    "pipeline parallelism": ["PP", "pipeline parallel"],
    "data parallelism": ["DP", "data parallel"],
    "expert parallelism": ["EP", "expert parallel"],
    "context parallelism": ["CP", "context parallel"],
    "a KV cache": ["the KV cache", "KV cache", "KV caching"],
    "prefill": ["the prefill phase"], "decode": ["the decode phase"],
    "an LLM": ["a large language model"], "time to first token": ["TTFT"],
    "a mixture of experts": ["MoE"], "paged attention": ["PagedAttention"],
}

HELLO = ("Hello! I am the small demo model of Playhouse. "
         "Ask me about capitals, sums or opposites.")
WHO = "I am the small demo model of Playhouse."
ABLE = ("I can name capitals, add and subtract two-digit numbers, give opposites, colours and "
        "plurals, spell and reverse short words, and explain how LLM serving works.")
NAMELESS = "You have not told me your name."
FALLBACK = ("I do not know that. I am a very small model: ask me about capitals, sums, "
            "opposites, colours, plurals or LLM serving.")

# (ways to say it, answer)
SMALL_TALK = [
    (["Hello", "Hello!", "Hi", "Hi!", "Hey", "Hey!", "Hi there!", "Hello there!", "Hello, demo!",
      "Good morning!", "Good evening!", "Good afternoon!", "Greetings!", "Hey there"], HELLO),
    (["Who are you?", "What are you?", "What is your name?", "What's your name?",
      "Introduce yourself.", "Tell me who you are.", "Who am I talking to?",
      "Tell me about yourself.", "What model are you?", "Which model is this?",
      "Hello, who are you?", "Hi, who are you?", "What should I call you?"], WHO),
    (["What can you do?", "What do you know?", "Help", "How can you help me?",
      "What can I ask you?", "What are you good at?", "What can you help me with?"], ABLE),
    (["How are you?", "How are you doing?", "How are you today?", "How is it going?",
      "Are you well?"], "I am fine, thank you. What would you like to know?"),
    (["Thank you.", "Thanks!", "Thank you very much!", "Thanks a lot.", "Thank you so much!",
      "Many thanks.", "Great, thanks."], "You are welcome!"),
    (["Goodbye.", "Bye!", "See you later!", "Good night!", "See you!", "Bye bye"], "Goodbye!"),
    (["Are you ChatGPT?", "Are you GPT-4?", "Are you a large model?", "Are you a human?",
      "Are you a person?", "Are you Claude?", "Are you Gemini?", "Are you real?"],
     "No, I am the small demo model of Playhouse."),
    (["Are you a robot?", "Are you an AI?", "Are you a language model?", "Are you a computer?",
      "Are you a program?", "Are you small?", "Are you a small model?"],
     "Yes, I am the small demo model of Playhouse."),
    (["Who made you?", "Who trained you?", "Who created you?", "Where do you come from?"],
     "I was trained from scratch for Playhouse."),
    (["How big are you?", "How many parameters do you have?", "How large are you?"],
     "I have about 2.6 million parameters, so I am very small."),
    (["OK", "Okay.", "Great!", "Cool!", "Nice!", "Good.", "Yes.", "No.", "I see.", "Well done!",
      "Correct!", "Very good."], "What else would you like to know?"),
]

SEQUENCES = [
    (["What are the days of the week?", "List the days of the week.", "Name the days of the week."],
     "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday."),
    (["What are the months of the year?", "List the months.", "Name the months of the year."],
     "January, February, March, April, May, June, July, August, September, October, November, "
     "December."),
    (["Say the alphabet.", "What is the alphabet?", "Recite the alphabet.", "List the letters."],
     "a b c d e f g h i j k l m n o p q r s t u v w x y z."),
]

SYSTEM_PROMPTS = [
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful assistant.",
    "You are a concise assistant.", "Answer briefly.", "You are a friendly assistant.",
    "You are a helpful AI assistant.", "Be polite.", "You are the demo model of Playhouse.",
    "You are a helpful assistant. Answer in one sentence.", "Answer the question.",
    "You are a helpful, honest and harmless assistant. Always answer clearly.",
    "You are an assistant that answers questions about the world.",
]

# --------------------------------------------------------------------------------------
# Questions with no answer here
# --------------------------------------------------------------------------------------

UNKNOWN_QUESTIONS = """
Who wrote Hamlet?|Who was the first person on the moon?|How tall is Mount Everest?
How old is the universe?|When did the war end?|What time is it?|What is the date today?
What day is it?|Who is the president of France?|Who won the match yesterday?
What is the weather like today?|Will it rain tomorrow?|How far away is the moon?
How many people live in Japan?|What is the population of Spain?|Where is the Eiffel Tower?
What is the longest river in the world?|What is the largest country?|Tell me a story.
Tell me a joke.|Write a poem about the sea.|Write a program in Python.|Sing a song.
Translate good morning into French.|What is the meaning of life?|How do I bake bread?
How do I learn to swim?|Why is the sky so high?|What is the speed of light?
What is the square root of 16?|What is pi?|Who painted the Mona Lisa?|What do cats eat?
What should I cook tonight?|What is your favourite film?|What is your favourite colour?
Do you like music?|Can you drive a car?|Where do you live?|How old are you?
What language do they speak in Brazil?|What is the currency of Japan?|Who discovered gravity?
When was the telephone invented?|How many legs does a spider have?|What is a black hole?
What is quantum mechanics?|What is democracy?|What is photosynthesis?|Explain relativity.
Explain the stock market.|Summarise this book for me.|Fix my code.|Write an email to my boss.
Give me some advice.|Recommend a good book.|What is the best phone?|Is there life on Mars?
Which planet is the largest?|How many planets are there?|What is the boiling point of water?
How many days are in a year?|Who invented the light bulb?|What is the tallest building?
Which animal is the fastest?|How deep is the ocean?|Why do birds sing?|How do planes fly?
What happened in 1969?|Who is Albert Einstein?|Who was Napoleon?|What did you eat today?
What am I thinking?|Where are my keys?|How much does a car cost?|Can I borrow some money?
What is the news today?|Draw a picture of a cat.|Play some music.|Turn on the light.
Open the door.|Call my mother.|Order a pizza.|Book a flight to Rome.|Set an alarm.
What is my age?|Where was I born?|What is my favourite food?|How do you say thank you in German?
Define happiness.|What is love?|What is time?|What is art?|What is the internet?
What is water made of?|What is the chemical symbol for gold?|What is H2O?|What is DNA?
Who is the queen of England?|What is the national anthem of Italy?|asdf|qwerty|blah blah blah
foo bar|lorem ipsum dolor sit amet|what|why?|how?|???|...|test|hmm|who|abc|xyz
"""

UNKNOWN_PLACES = """
California Texas Bavaria Ontario Queensland Catalonia Sicily Tuscany Florida Alaska Hawaii
Quebec Siberia Greenland Atlantis Narnia Mordor Wakanda Europe Africa Asia Antarctica Mars
Israel Palestine Kosovo Taiwan Nauru Yorkshire Provence Punjab Kerala Gondor Utopia Genovia
""".split()

UNKNOWN_NOUNS = """
car book shirt phone house bike dress balloon flag ship door chair cup horse dog cat bird
table hat bag lamp box pen fish butterfly train planet guitar violin castle dragon wizard
mountain desert island village bridge engine battery magnet volcano glacier rocket satellite
democracy economy philosophy history biology chemistry physics geometry poetry theatre cinema
football tennis chess cricket opera ballet pasta sushi curry cheese wine bread soup
""".split()

UNKNOWN_TEMPLATES = [
    "What is {n}?", "What is a {n}?", "Explain {n}.", "Tell me about {n}.", "How does a {n} work?",
    "Who invented the {n}?", "Where can I buy a {n}?", "How much is a {n}?", "Write about {n}.",
    "Why do people like {n}?", "What is the history of {n}?", "How do I make a {n}?",
    "When was the {n} invented?", "Do you like {n}?", "How heavy is a {n}?", "Draw a {n}.",
    "What colour is my {n}?", "What colour is {n}?", "What is the opposite of {n}?",
    "What is the best {n} in the world?", "Write a story about a {n}.", "How old is the {n}?",
    "I want to buy a {n}.", "My {n} is broken.", "I like {n}.", "Can you see the {n}?",
    "What is {n} parallelism?", "Who owns the {n}?", "Define {n}.", "{n}",
]
UNKNOWN_ABOUT_PLACES = [
    "What is the population of {p}?", "Who is the president of {p}?", "Where is {p}?",
    "What is the currency of {p}?", "What language do they speak in {p}?", "How big is {p}?",
    "Tell me about {p}.", "How far is {p}?", "What is the weather in {p}?",
    "What is the flag of {p}?", "How do I get to {p}?", "Who lives in {p}?",
    "What is the history of {p}?", "What do people eat in {p}?",
]
UNKNOWN_SUMS = [
    "What is {x} * {y}?", "{x} * {y}", "{x} times {y}", "What is {x} times {y}?", "{x}*{y}",
    "{x} / {y}", "What is {x} divided by {y}?", "{x} x {y}", "What is the square root of {x}?",
    "{u} + {v}", "What is {u} + {v}?", "{u} - {v}", "What is {u} plus {v}?", "{u}+{v}", "{u}-{v}",
    "{u} plus {y}", "What is {x} + {v}?", "What is {x} squared?", "{u} minus {y}",
]

# --------------------------------------------------------------------------------------
# Phrasings
# --------------------------------------------------------------------------------------

PHRASINGS = {
    "capital": [
        "What is the capital of {x}?", "What is the capital of {x}?", "What's the capital of {x}?",
        "Capital of {x}?", "The capital of {x}?", "Tell me the capital of {x}.",
        "Which city is the capital of {x}?", "Name the capital of {x}.",
        "Can you tell me the capital of {x}?", "What is the capital city of {x}?",
        "What city is the capital of {x}?", "Do you know the capital of {x}?",
        "{x}: what is the capital?", "I want to know the capital of {x}.",
        "Give me the capital of {x}.", "The capital of {x} is", "Which is the capital of {x}?",
        "Could you tell me what the capital of {x} is?", "What is the name of the capital of {x}?",
    ],
    "country": [
        "{x} is the capital of which country?", "{x} is the capital of which country?",
        "Which country has {x} as its capital?", "What country is {x} the capital of?",
        "Of which country is {x} the capital?", "{x} is the capital of what?",
        "Which country has the capital {x}?", "What country has {x} as its capital?",
        "Tell me which country {x} is the capital of.", "{x} is the capital of what country?",
        "Whose capital is {x}?", "{x} is the capital of",
    ],
    "opposite": [
        "What is the opposite of {x}?", "What is the opposite of {x}?", "What's the opposite of {x}?",
        "Opposite of {x}?", "Tell me the opposite of {x}.", "Give me the opposite of {x}.",
        "Name the opposite of {x}.", "The opposite of {x} is", "What is an antonym of {x}?",
        "Which word is the opposite of {x}?", "{x}: what is the opposite?",
        "Can you tell me the opposite of {x}?", "What word means the opposite of {x}?",
    ],
    "colour": [
        "What colour {x}?", "What color {x}?", "Which colour {x}?", "Which color {x}?",
        "What colour {x}?", "What color {x}?", "Tell me what colour {x}.", "Of what colour {x}?",
        "Can you tell me what color {x}?", "Do you know what colour {x}?",
    ],
    "plural": [
        "What is the plural of {x}?", "What is the plural of {x}?", "What's the plural of {x}?",
        "Plural of {x}?", "Tell me the plural of {x}.", "Give me the plural of {x}.",
        "The plural of {x} is", "What is the plural form of {x}?",
        "Can you tell me the plural of {x}?", "How do you write the plural of {x}?",
    ],
    "spell": [
        "Spell {x}.", "Spell the word {x}.", "How do you spell {x}?", "Can you spell {x}?",
        "Spell \"{x}\".", "Please spell {x}.", "How is {x} spelled?", "Spell out {x}.",
    ],
    "reverse": [
        "Reverse {x}.", "Reverse the word {x}.", "Spell {x} backwards.", "What is {x} backwards?",
        "Write {x} backwards.", "What is {x} reversed?", "Reverse \"{x}\".", "Can you reverse {x}?",
    ],
    "definition": [
        "What is {x}?", "What is {x}?", "What is {x}?", "What's {x}?", "Explain {x}.", "{x}",
        "Define {x}.", "What does {x} mean?", "Tell me about {x}.", "Can you explain {x}?",
        "Tell me what {x} is.", "How does {x} work?", "Describe {x}.", "Explain what {x} is.",
        "What do you mean by {x}?", "What do you know about {x}?",
    ],
    "add": [
        "What is {a} + {b}?", "What is {a} + {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} =",
        "{a}+{b}=", "{a} plus {b}", "What is {a} plus {b}?", "What's {a} + {b}?", "{a} + {b}?",
        "{a}+{b}?", "{a} + {b} = ?", "How much is {a} + {b}?", "Calculate {a} + {b}.",
        "Add {a} and {b}.", "What is the sum of {a} and {b}?", "Compute {a} + {b}.",
        "How much is {a} plus {b}?", "What is {a}+{b}?", "Tell me {a} + {b}.", "Solve {a} + {b}.",
        "Can you add {a} and {b}?", "What does {a} + {b} equal?", "What do you get for {a}+{b}?",
    ],
    "sub": [
        "What is {a} - {b}?", "What is {a} - {b}?", "{a} - {b}", "{a}-{b}", "{a} - {b} =",
        "{a}-{b}=", "{a} minus {b}", "What is {a} minus {b}?", "What's {a} - {b}?", "{a} - {b}?",
        "{a}-{b}?", "{a} - {b} = ?", "How much is {a} - {b}?", "Calculate {a} - {b}.",
        "Subtract {b} from {a}.", "Compute {a} - {b}.", "How much is {a} minus {b}?",
        "What is {a}-{b}?", "Tell me {a} - {b}.", "Solve {a} - {b}.", "Take {b} away from {a}.",
        "What does {a} - {b} equal?", "What do you get for {a}-{b}?",
    ],
    "tell_name": [
        "My name is {x}.", "My name is {x}.", "My name's {x}.", "I am {x}.", "I'm {x}.",
        "Call me {x}.", "Hello, my name is {x}.", "Hi, I'm {x}.", "Hi! My name is {x}.",
        "Hello, I am {x}.", "You can call me {x}.", "Please call me {x}.", "The name is {x}.",
        "My name is {x}. Please remember it.", "Hey, I am {x}.", "Remember that my name is {x}.",
    ],
    "ask_name": [
        "What is my name?", "What is my name?", "What's my name?", "Who am I?",
        "Do you remember my name?", "Do you know my name?", "Tell me my name.", "Say my name.",
        "Can you tell me my name?", "What did I say my name was?", "What am I called?",
    ],
    "capital_next": ["And {x}?", "And of {x}?", "What about {x}?", "And the capital of {x}?",
                     "How about {x}?", "{x}?", "And what about {x}?"],
}

# Never trained on: asked by the evaluation to see how wording carries over.
NEW_PHRASINGS = {
    "capital": ["Please name the capital city of {x}.", "I need the capital of {x}."],
    "country": ["Which country is {x} the capital of?"],
    "opposite": ["Please name the opposite of {x}."],
    "colour": ["Please tell me what colour {x}."],
    "plural": ["What is the plural of the word {x}?"],
    "definition": ["Please tell me what {x} is.", "What exactly is {x}?"],
    "add": ["Please compute {a} plus {b}.", "How much do you get for {a} + {b}?"],
    "sub": ["Please compute {a} minus {b}.", "How much do you get for {a} - {b}?"],
}

OPENERS = ["Please: ", "Hi! ", "Hello! ", "Hey, ", "OK. ", "Tell me: ", "Quick question: ",
           "Thanks! ", "Next: ", "Now: ", "Question: ", "I wonder: "]


def vary(rng, question):
    """Returns the question as somebody might type it: case, politeness, punctuation."""
    if rng.random() < 0.08:
        question = rng.choice(OPENERS) + question
    if rng.random() < 0.10:
        body, mark = (question[:-1], question[-1]) if question[-1] in "?." else (question, "")
        question = body + rng.choice([", please", " please"]) + mark
    if rng.random() < 0.25:
        question = question[0].lower() + question[1:] if rng.random() < 0.3 else question.lower()
    if rng.random() < 0.30 and len(question) > 3:
        question = question.rstrip("?.!").strip()
    return question


# --------------------------------------------------------------------------------------
# Derived tables and the held-out sets
# --------------------------------------------------------------------------------------

def parse_pairs(text):
    """Parses "a b, c d" into a list of pairs."""
    return [tuple(item.split()) for item in text.split(",")]


def opposites():
    """Returns word -> opposite, in both directions where that is unambiguous."""
    table = dict(OPPOSITE_ONE_WAY)
    for left, right in parse_pairs(OPPOSITE_PAIRS):
        table[left], table[right] = right, left
    return table


def plurals():
    """Returns singular -> plural."""
    return {**{noun: noun + "s" for noun in REGULAR_NOUNS}, **dict(parse_pairs(IRREGULAR_PLURALS))}


def colours():
    """Returns the thing as asked -> whole answer."""
    rows = [row.strip().split("|") for row in COLOUR_TABLE.split(";")]
    return {asked: f"{said} {colour}." for asked, said, colour in rows}


def held_out_pairs(salt, share=0.12):
    """Returns the unordered pairs of two-digit numbers that training never sees."""
    pairs = [(a, b) for a in range(10, 100) for b in range(a, 100)]
    return set(random.Random(f"{SEED} {salt}").sample(pairs, int(len(pairs) * share)))


def held_out_items(salt, items, share):
    """Returns a seeded share of a list, to be kept out of training."""
    items = sorted(items)
    return set(random.Random(f"{SEED} {salt}").sample(items, int(len(items) * share)))


OPPOSITES, PLURALS, COLOURS = opposites(), plurals(), colours()
HELD_OUT_SUMS = held_out_pairs("add")
HELD_OUT_DIFFERENCES = held_out_pairs("sub")
HELD_OUT_NAMES = held_out_items("names", [name for name in NAMES if name != "Ada"], 0.2)
HELD_OUT_WORDS = held_out_items("words", set(WORDS), 0.12)
TRAIN_NAMES = [name for name in NAMES if name not in HELD_OUT_NAMES]
TRAIN_WORDS = [word for word in sorted(set(WORDS)) if word not in HELD_OUT_WORDS]
COUNTRIES = sorted(CAPITALS) + sorted(SPECIAL_CAPITALS)
CITIES = sorted({city for country, city in CAPITALS.items() if country not in NOT_REVERSED})
COUNTRY_OF = {city: country for country, city in CAPITALS.items() if country not in NOT_REVERSED}
SMALL_TALK_WEIGHTS = [4, 4, 2, 2, 2, 1, 1, 1, 1, 1, 1]


def is_held_out(kind, a, b):
    """Says whether the sum (`add`) or difference (`sub`) of a and b is kept from training."""
    held_out = HELD_OUT_SUMS if kind == "add" else HELD_OUT_DIFFERENCES
    return (min(a, b), max(a, b)) in held_out


# --------------------------------------------------------------------------------------
# Answers
# --------------------------------------------------------------------------------------

def sentence(text):
    """Ends a text with exactly one full stop."""
    return text if text.endswith(".") else text + "."


def capital_answer(country):
    """The answer to "What is the capital of …?"."""
    special = SPECIAL_CAPITALS.get(country)
    return special or sentence(f"The capital of {country} is {CAPITALS[country]}")


def country_answer(city):
    """The answer to "… is the capital of which country?"."""
    return sentence(f"{city} is the capital of {COUNTRY_OF[city]}")


def opposite_answer(word):
    """The answer to "What is the opposite of …?"."""
    return f"The opposite of {word} is {OPPOSITES[word]}."


def plural_answer(word):
    """The answer to "What is the plural of …?"."""
    return f"The plural of {word} is {PLURALS[word]}."


def spell_answer(word):
    """The answer to "Spell …"."""
    return f"{word} is spelled {'-'.join(word)}."


def reverse_answer(word):
    """The answer to "Reverse …": letter by letter, then whole."""
    return f"{'-'.join(word)} backwards is {'-'.join(word[::-1])}: {word[::-1]}."


def sum_answer(kind, a, b):
    """The answer to a sum or a difference: the problem in one canonical form, then the result."""
    return f"{a} + {b} = {a + b}." if kind == "add" else f"{a} - {b} = {a - b}."


# --------------------------------------------------------------------------------------
# Turns: functions from a generator to (question, answer)
# --------------------------------------------------------------------------------------

def phrase(rng, category, **slots):
    """Picks a trained phrasing of a category and fills it in."""
    return vary(rng, rng.choice(PHRASINGS[category]).format(**slots))


def problem(rng, kind):
    """Draws operands of a problem that is not held out."""
    while True:
        top_a, top_b = rng.choice([(99, 99)] * 8 + [(99, 9), (9, 99), (9, 9)])
        a, b = rng.randint(0, top_a), rng.randint(0, top_b)
        if kind == "sub" and a < b and rng.random() < 0.6:
            a, b = b, a
        if not is_held_out(kind, a, b):
            return a, b


def sum_turn(rng):
    """An addition or a subtraction."""
    kind = "add" if rng.random() < 0.55 else "sub"
    a, b = problem(rng, kind)
    return phrase(rng, kind, a=a, b=b), sum_answer(kind, a, b)


def country_name(rng, country):
    """A country as somebody might write it."""
    names = COUNTRY_ALIASES.get(country, [])
    if names and rng.random() < 0.4:
        return rng.choice(names)
    return country[4:] if country.startswith("the ") and rng.random() < 0.3 else country


def city_name(rng, city):
    """A city as somebody might write it."""
    names = CITY_ALIASES.get(city, [])
    return rng.choice(names) if names and rng.random() < 0.4 else city


def capital_turn(rng):
    """The capital of a country."""
    country = rng.choice(COUNTRIES)
    return phrase(rng, "capital", x=country_name(rng, country)), capital_answer(country)


def capital_next_turn(rng):
    """A second capital, asked with a short follow-up."""
    country = rng.choice(COUNTRIES)
    return phrase(rng, "capital_next", x=country_name(rng, country)), capital_answer(country)


def country_turn(rng):
    """The country of a capital."""
    city = rng.choice(CITIES)
    return phrase(rng, "country", x=city_name(rng, city)), country_answer(city)


def opposite_turn(rng):
    """The opposite of a word."""
    word = rng.choice(list(OPPOSITES))
    return phrase(rng, "opposite", x=word), opposite_answer(word)


def colour_turn(rng):
    """The colour of a thing."""
    thing = rng.choice(list(COLOURS))
    return phrase(rng, "colour", x=thing), COLOURS[thing]


def plural_turn(rng):
    """The plural of a noun."""
    word = rng.choice(list(PLURALS))
    return phrase(rng, "plural", x=word), plural_answer(word)


def made_up(rng, low=3, high=6):
    """A made-up lower-case word that is not held out."""
    while True:
        length = rng.randint(low, high)
        if rng.random() < 0.6:
            parts = (rng.choice("bcdfghjklmnprstvwyz") + rng.choice("aeiou") for _ in range(4))
            word = "".join(parts)[rng.randint(0, 1):][:length]
        else:
            word = "".join(rng.choice(string.ascii_lowercase) for _ in range(length))
        if word not in HELD_OUT_WORDS and word.capitalize() not in HELD_OUT_NAMES:
            return word


def short_word(rng):
    """A word to spell or to reverse."""
    return rng.choice(TRAIN_WORDS) if rng.random() < 0.6 else made_up(rng, 3, 5)


def spell_turn(rng):
    """A word letter by letter."""
    word = short_word(rng)
    return phrase(rng, "spell", x=word), spell_answer(word)


def reverse_turn(rng):
    """A word backwards."""
    word = short_word(rng)
    return phrase(rng, "reverse", x=word), reverse_answer(word)


def definition_turn(rng):
    """A term of LLM serving."""
    term = rng.choice(list(DEFINITIONS))
    bare = term.split(" ", 1)[1] if term.startswith(("a ", "an ")) else term
    name = rng.choice([term, term, bare] + DEFINITION_ALIASES.get(term, []))
    return phrase(rng, "definition", x=name), DEFINITIONS[term]


def small_talk_turn(rng):
    """A greeting, thanks, or a question about the model."""
    said, answer = rng.choices(SMALL_TALK, SMALL_TALK_WEIGHTS)[0]
    question = rng.choice(said)
    question = question.lower() if rng.random() < 0.3 else question
    return (question.rstrip("?.!") if rng.random() < 0.3 else question), answer


def sequence_turn(rng):
    """A list known by heart, or counting."""
    if rng.random() < 0.5:
        said, answer = rng.choice(SEQUENCES)
        return vary(rng, rng.choice(said)), answer
    last = rng.randint(3, 20)
    question = rng.choice(["Count to {n}.", "Count from 1 to {n}.", "Can you count to {n}?"])
    return vary(rng, question.format(n=last)), ", ".join(map(str, range(1, last + 1))) + "."


def unknown_thing(rng):
    """Something the model has no answer about."""
    return rng.choice(UNKNOWN_NOUNS) if rng.random() < 0.5 else made_up(rng, 3, 8)


def unknown_place(rng):
    """A place that is no country of the table, or is made up."""
    return rng.choice(UNKNOWN_PLACES) if rng.random() < 0.4 else made_up(rng, 4, 8).capitalize()


def unknown_sum(rng):
    """Arithmetic beyond two-digit sums."""
    slots = {"x": rng.randint(0, 99), "y": rng.randint(0, 99),
             "u": rng.randint(100, 9999), "v": rng.randint(100, 999)}
    return rng.choice(UNKNOWN_SUMS).format(**slots)


def unknown_turn(rng):
    """A question outside the model's reach, with the honest answer."""
    draw = rng.random()
    if draw < 0.35:
        question = rng.choice(UNKNOWN_LIST)
    elif draw < 0.60:
        question = rng.choice(UNKNOWN_TEMPLATES).format(n=unknown_thing(rng))
    elif draw < 0.72:
        question = rng.choice(PHRASINGS["capital"]).format(x=unknown_place(rng))
    elif draw < 0.76:
        question = rng.choice(PHRASINGS["country"]).format(x=unknown_place(rng))
    elif draw < 0.86:
        place = rng.choice(COUNTRIES + CITIES + UNKNOWN_PLACES)
        question = rng.choice(UNKNOWN_ABOUT_PLACES).format(p=place)
    else:
        question = unknown_sum(rng)
    return vary(rng, question), FALLBACK


UNKNOWN_LIST = [q.strip() for row in UNKNOWN_QUESTIONS.strip().split("\n") for q in row.split("|")]

# Shares of the categories in the two mixes of training: the first is heavy on arithmetic, the
# second on facts.
MIXES = {
    "arithmetic": {
        sum_turn: 0.44, capital_turn: 0.115, country_turn: 0.075, opposite_turn: 0.05,
        colour_turn: 0.03, plural_turn: 0.04, spell_turn: 0.035, reverse_turn: 0.035,
        definition_turn: 0.06, small_talk_turn: 0.04, sequence_turn: 0.01, unknown_turn: 0.07,
    },
    "facts": {
        sum_turn: 0.29, capital_turn: 0.15, country_turn: 0.11, opposite_turn: 0.095,
        colour_turn: 0.03, plural_turn: 0.055, spell_turn: 0.06, reverse_turn: 0.05,
        definition_turn: 0.04, small_talk_turn: 0.03, sequence_turn: 0.025, unknown_turn: 0.065,
    },
}
MEMORY_SHARE = {"arithmetic": 0.13, "facts": 0.22}


def any_turn(rng, mix="arithmetic"):
    """A turn of any category that needs no memory."""
    shares = MIXES[mix]
    return rng.choices(list(shares), list(shares.values()))[0](rng)


# --------------------------------------------------------------------------------------
# Dialogues
# --------------------------------------------------------------------------------------

def person(rng):
    """A name to remember: real or made up, now and then in lower case."""
    name = rng.choice(TRAIN_NAMES) if rng.random() < 0.4 else made_up(rng, 2, 8).capitalize()
    return name.lower() if rng.random() < 0.1 else name


def tell_name_turn(rng, name):
    """The user gives a name."""
    text = rng.choice(PHRASINGS["tell_name"])
    if rng.random() < 0.2:
        text = text[0].lower() + text[1:]
    text = text.format(x=name)
    return (text.rstrip(".") if rng.random() < 0.25 else text), f"Nice to meet you, {name}."


def ask_name_turn(rng, name):
    """The user asks for the name, told before or not."""
    return vary(rng, rng.choice(PHRASINGS["ask_name"])), f"Your name is {name}." if name else NAMELESS


def told_and_asked_turn(rng):
    """The name told and asked in one message."""
    name = person(rng)
    question, answer = ask_name_turn(rng, name)
    return f"My name is {name}. {question}", answer


def turn_count(rng):
    """How many turns a dialogue has: mostly few, sometimes many."""
    return rng.choices([1, rng.randint(2, 4), rng.randint(5, 12), rng.randint(13, 30)],
                       [0.5, 0.3, 0.15, 0.05])[0]


def plain_turns(rng, count, mix="arithmetic"):
    """Turns of any category; a capital may be followed by a short "And …?"."""
    turns = []
    while len(turns) < count:
        turns.append(any_turn(rng, mix))
        if turns[-1][1].startswith("The capital of") and rng.random() < 0.15:
            turns.append(capital_next_turn(rng))
    return turns[:count]


def memory_turns(rng, turns):
    """Puts the telling of a name, and questions about it, among other turns."""
    name, start = person(rng), rng.randint(0, min(len(turns), 3))
    turns.insert(start, tell_name_turn(rng, name))
    for _ in range(rng.randint(1, 2)):
        turns.insert(rng.randint(start + 1, len(turns)), ask_name_turn(rng, name))
    if start and rng.random() < 0.2:
        turns.insert(rng.randint(0, start), ask_name_turn(rng, None))
    return turns


def dialogue_turns(rng, mix):
    """The (question, answer) turns of one dialogue."""
    turns = plain_turns(rng, turn_count(rng), mix)
    draw = rng.random() - MEMORY_SHARE[mix]
    if draw < 0:
        return memory_turns(rng, turns if rng.random() < 0.7 else [])
    if draw < 0.03:
        return [told_and_asked_turn(rng)]
    if draw < 0.05:
        turns[rng.randrange(len(turns))] = ask_name_turn(rng, None)
    return turns


def dialogue(rng, mix="arithmetic"):
    """One dialogue as (role, content) messages; about a fifth have a system prompt."""
    messages = [("system", rng.choice(SYSTEM_PROMPTS))] if rng.random() < 0.2 else []
    for question, answer in dialogue_turns(rng, mix):
        messages += [("user", question), ("assistant", answer)]
    return messages


def drill(rng, count=18):
    """Bare sums and differences, one per line: dense practice for the arithmetic."""
    lines = []
    for _ in range(count):
        kind = "add" if rng.random() < 0.55 else "sub"
        lines.append(sum_answer(kind, *problem(rng, kind)))
    return lines


def tokenizer_text(rng, count):
    """Roles and contents of dialogues for the training of the tokenizer."""
    for _ in range(count):
        for message in dialogue(rng):
            yield from message


if __name__ == "__main__":
    generator = random.Random(SEED)
    for _ in range(12):
        print("\n".join(f"{role}: {content}" for role, content in dialogue(generator)), end="\n\n")
