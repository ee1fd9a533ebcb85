"""The word lists behind the demo's generated text, and a maker of words that nobody has seen.

All lists were written for this project. First names stand alone and belong to no one in
particular; places are well known ones.
"""

import random
from typing import Final


def _list(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.replace("\n", " ").split(",") if entry.strip())


NAMES: Final = _list("""
Ada, Adam, Agnes, Aisha, Alan, Alba, Albert, Alice, Amara, Amir, Ana, Anders, Anita, Anna, Anton,
Ari, Arthur, Astrid, Aya, Bea, Ben, Bianca, Boris, Bruno, Carla, Carlos, Carmen, Cecil, Celia,
Chloe, Clara, Colin, Dalia, Dana, Daniel, Daria, David, Diego, Dora, Edgar, Edith, Elena, Eli,
Elif, Ella, Emil, Emma, Enzo, Erik, Esther, Eva, Fatima, Felix, Fiona, Flora, Frank, Freya, Gabor,
George, Gina, Gloria, Greta, Gustav, Hana, Hannah, Harry, Hassan, Heidi, Helen, Henry, Hugo, Ida,
Igor, Ines, Ingrid, Irene, Isaac, Ivan, Jack, James, Jana, Jasper, Jay, Joan, Jonas, Jorge, Julia,
Jun, Karim, Karl, Kate, Keiko, Kenji, Klara, Lars, Laura, Leah, Leila, Leo, Lily, Lina, Linus,
Lisa, Lucas, Lucia, Luis, Luna, Magnus, Maja, Marco, Maria, Marta, Martin, Mateo, Maya, Mei, Mia,
Mila, Milo, Mina, Mira, Nadia, Naomi, Neil, Nico, Nina, Nora, Noah, Olga, Oliver, Omar, Oscar,
Otto, Pablo, Paula, Pavel, Pedro, Petra, Philip, Priya, Rafael, Rania, Ravi, Rita, Robert, Rosa,
Ruth, Sam, Sana, Sara, Simon, Sofia, Sonia, Stefan, Sven, Tara, Theo, Thomas, Tilda, Tim, Tobias,
Tomas, Uma, Ursula, Vera, Victor, Viola, Walter, Wendy, Yara, Yusuf, Zara, Zoe""")

CITIES: Final = _list("""
Aberdeen, Accra, Amsterdam, Ankara, Antwerp, Athens, Auckland, Bangkok, Barcelona, Basel, Beirut,
Belfast, Bergen, Berlin, Bern, Bilbao, Bogota, Bologna, Bonn, Bordeaux, Boston, Bremen, Brisbane,
Bristol, Brussels, Bucharest, Budapest, Cairo, Calgary, Cardiff, Chicago, Cologne, Copenhagen,
Cordoba, Cork, Cusco, Dakar, Dallas, Delhi, Denver, Dresden, Dublin, Durban, Edinburgh, Florence,
Fukuoka, Galway, Gdansk, Geneva, Genoa, Ghent, Glasgow, Granada, Graz, Hamburg, Hanoi, Havana,
Helsinki, Hobart, Houston, Innsbruck, Istanbul, Jakarta, Kampala, Kigali, Krakow, Kyoto, Lagos,
Leeds, Leipzig, Lille, Lima, Lisbon, Liverpool, London, Lyon, Madrid, Malaga, Manila, Marseille,
Melbourne, Milan, Montreal, Mumbai, Munich, Nairobi, Nantes, Naples, Osaka, Oslo, Ottawa, Oxford,
Palermo, Paris, Perth, Pisa, Plymouth, Porto, Prague, Quebec, Quito, Riga, Rome, Rotterdam,
Salzburg, Santiago, Sapporo, Seattle, Seoul, Seville, Sofia, Stockholm, Stuttgart, Sydney,
Tallinn, Tampere, Tokyo, Toledo, Toronto, Toulouse, Trieste, Tunis, Turin, Utrecht, Valencia,
Vancouver, Venice, Verona, Vienna, Vilnius, Warsaw, Wellington, York, Zagreb, Zurich""")

JOBS: Final = _list("""
accountant, actor, architect, artist, baker, barber, biologist, bookseller, builder, bus driver,
butcher, carpenter, cashier, chef, chemist, cleaner, coach, cook, dancer, dentist, designer,
doctor, editor, electrician, engineer, farmer, firefighter, florist, gardener, geologist, glazier,
guide, hairdresser, historian, illustrator, interpreter, jeweller, journalist, judge, lawyer,
lecturer, librarian, locksmith, manager, mechanic, midwife, miller, musician, nurse, optician,
painter, pharmacist, photographer, physicist, pianist, pilot, plumber, police officer, porter,
postman, potter, programmer, receptionist, roofer, sailor, scientist, secretary, shoemaker,
singer, surgeon, surveyor, tailor, taxi driver, teacher, translator, tutor, vet, waiter, weaver,
welder, writer, zookeeper""")

FOODS: Final = _list("""
apple pie, apples, bananas, bean soup, beetroot, blueberries, bread, broccoli, butter, cabbage,
carrot cake, carrots, cheese, cherries, chicken, chilli, chips, chocolate, cinnamon rolls,
coconut, couscous, cucumbers, curry, dates, dumplings, eggs, fish, fried rice, garlic, ginger,
grapes, grilled fish, hazelnuts, honey, hummus, ice cream, jam, kale, kiwis, lemon cake, lemons,
lentils, lettuce, mangoes, marzipan, melon, mushrooms, mustard, noodles, nuts, oat biscuits,
olives, omelettes, onion soup, onions, oranges, pancakes, papaya, pasta, peaches, peanuts, pears,
peas, peppers, pickles, pineapple, pizza, plums, porridge, potato salad, potatoes, pumpkin,
radishes, raisins, raspberries, rice, roast potatoes, rye bread, salmon, sauerkraut, sesame, soup,
spinach, strawberries, sushi, tofu, tomatoes, tuna, vanilla, waffles, walnuts, yogurt""")

DRINKS: Final = _list("""
apple juice, black coffee, black tea, cocoa, coffee, green tea, herbal tea, hot chocolate, iced
tea, lemonade, milk, mineral water, mint tea, orange juice, tap water, tea, tomato juice""")

HOBBIES: Final = _list("""
archery, baking, birdwatching, bowling, boxing, camping, canoeing, climbing, collecting stamps,
cooking, cycling, dancing, diving, drawing, embroidery, fencing, fishing, gardening, golf, hiking,
ice skating, jogging, juggling, karate, kayaking, knitting, making candles, model trains, origami,
painting, photography, playing cards, playing chess, playing football, playing tennis, playing the
cello, playing the drums, playing the flute, playing the guitar, playing the piano, playing the
violin, pottery, quilting, reading, reading comics, riding, rowing, running, sailing, sewing,
singing, skating, skiing, snorkelling, surfing, swimming, table tennis, volleyball, walking,
watching films, weaving, woodwork, writing poems, writing stories, yoga""")

PETS: Final = _list("""
budgie, canary, cat, chinchilla, cockatoo, dog, donkey, duck, ferret, gecko, goat, goldfish,
goose, guinea pig, hamster, hedgehog, hen, horse, iguana, kitten, lizard, mouse, parrot, pony,
puppy, rabbit, rat, sheep, snail, snake, tortoise, turtle""")

PET_NAMES: Final = _list("""
Acorn, Bandit, Basil, Biscuit, Bobo, Bramble, Bubbles, Button, Caramel, Chestnut, Clover, Coco,
Comet, Cookie, Copper, Cosmo, Cricket, Daisy, Dusty, Echo, Fern, Flash, Fudge, Ginger, Hazel,
Honey, Jellybean, Juniper, Kiki, Lulu, Maple, Marble, Minnow, Misty, Mochi, Moss, Muffin, Nutmeg,
Olive, Oreo, Patch, Peanut, Pebble, Pepper, Pickle, Pixel, Pumpkin, Quill, Rex, Rocket, Rusty,
Scout, Shadow, Smokey, Snowy, Socks, Sparky, Speedy, Sunny, Tango, Tiger, Toffee, Truffle, Velvet,
Waffles, Whiskers, Willow, Ziggy""")

RELATIONS: Final = _list("""
aunt, boss, brother, brother-in-law, cousin, dad, daughter, father, flatmate, friend, grandfather,
grandmother, husband, mother, mum, neighbour, nephew, niece, partner, roommate, sister,
sister-in-law, son, uncle, wife""")

EVENTS: Final = _list("""
art fair, audit, barbecue, birthday party, board meeting, book club, budget review, choir concert,
concert, conference, cooking class, dance show, dentist appointment, dinner, driving test, exam,
exhibition, eye test, family lunch, farewell party, film night, first aid course, flea market,
football match, garden party, graduation, haircut, housewarming, interview, job fair, kick-off,
lecture, marathon, museum visit, open day, parents evening, picnic, piano recital, planning
meeting, play, quiz night, reunion, school trip, spring fair, swimming lesson, team lunch,
training day, vet appointment, wedding, wine tasting, workshop, yard sale""")

OBJECTS: Final = _list("""
backpack, basket, bell, bicycle, blanket, book, bottle, bowl, box, bucket, candle, carpet, chair,
clock, coat, cup, curtain, desk, drill, fan, fork, frame, guitar, hammer, hat, helmet, jacket,
jar, jug, kettle, key, kite, knife, ladder, lamp, laptop, map, mirror, mug, notebook, oven, pan,
pen, phone, pillow, plate, pot, printer, radio, rope, rug, saw, scarf, shelf, shirt, sofa, spoon,
suitcase, table, tablet, teapot, tent, toaster, torch, towel, tray, umbrella, vase, violin,
wallet, watch""")

PLACES: Final = _list("""
airport, bakery, bank, beach, bookshop, bridge, bus stop, cafe, cinema, church, corner shop,
factory, farm, fire station, forest, gallery, garage, garden, gym, harbour, hospital, hotel,
kitchen, lake, library, market, museum, office, park, pharmacy, playground, pool, post office,
restaurant, school, shop, square, stadium, station, theatre, town hall, university, village hall,
warehouse, zoo""")

COLOURS: Final = _list("""
amber, beige, black, blue, bronze, brown, cream, crimson, gold, green, grey, indigo, ivory, lilac,
maroon, navy, olive, orange, pink, purple, red, scarlet, silver, teal, turquoise, violet, white,
yellow""")

LANGUAGES: Final = _list("""
Arabic, Basque, Catalan, Czech, Danish, Dutch, English, Finnish, French, German, Greek, Hindi,
Hungarian, Icelandic, Irish, Italian, Japanese, Korean, Latin, Norwegian, Polish, Portuguese,
Romanian, Russian, Spanish, Swahili, Swedish, Tamil, Thai, Turkish, Ukrainian, Urdu, Welsh""")

WEEKDAYS: Final = _list("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS: Final = _list("""
January, February, March, April, May, June, July, August, September, October, November, December""")
WEATHER: Final = _list("""
clear, cloudy, cold, cool, damp, dry, foggy, freezing, frosty, grey, hot, humid, icy, mild, misty,
rainy, snowy, stormy, sunny, warm, wet, windy""")
FEELINGS: Final = _list("""
angry, anxious, bored, calm, cheerful, curious, excited, glad, grateful, happy, hungry, lonely,
nervous, proud, relaxed, relieved, sad, shy, sleepy, stressed, surprised, thirsty,
tired, worried""")
ADJECTIVES: Final = _list("""
big, broken, bright, broad, cheap, clean, comfortable, dark, dirty, empty, expensive, fresh, full,
heavy, large, light, little, lovely, modern, narrow, new, noisy, old, plain, pretty, quiet, round,
rough, sharp, short, simple, slow, small, soft, solid, strange, strong, tall, tiny, useful, wide""")

MEN: Final = _list("""
Adam, Alan, Albert, Amir, Anders, Anton, Arthur, Ben, Boris, Bruno, Carlos, Cecil, Colin, Daniel,
David, Diego, Edgar, Eli, Emil, Enzo, Erik, Felix, Frank, Gabor, George, Gustav, Harry, Hassan,
Henry, Hugo, Igor, Isaac, Ivan, Jack, James, Jasper, Jonas, Jorge, Karim, Karl, Kenji, Lars, Leo,
Linus, Lucas, Luis, Magnus, Marco, Martin, Mateo, Milo, Neil, Nico, Noah, Oliver, Omar, Oscar,
Otto, Pablo, Pavel, Pedro, Philip, Rafael, Ravi, Robert, Simon, Stefan, Sven, Theo, Thomas, Tim,
Tobias, Tomas, Victor, Walter, Yusuf""")
WOMEN: Final = _list("""
Ada, Agnes, Aisha, Alba, Alice, Amara, Ana, Anita, Anna, Astrid, Aya, Bea, Bianca, Carla, Carmen,
Celia, Chloe, Clara, Dalia, Dana, Daria, Dora, Edith, Elena, Elif, Ella, Emma, Esther, Eva,
Fatima, Fiona, Flora, Freya, Gina, Gloria, Greta, Hana, Hannah, Heidi, Helen, Ida, Ines, Ingrid,
Irene, Jana, Joan, Julia, Kate, Keiko, Klara, Laura, Leah, Leila, Lily, Lina, Lisa, Lucia, Luna,
Maja, Maria, Marta, Maya, Mei, Mia, Mila, Mina, Mira, Nadia, Naomi, Nina, Nora, Olga, Paula,
Petra, Priya, Rania, Rita, Rosa, Ruth, Sana, Sara, Sofia, Sonia, Tara, Tilda, Uma, Ursula, Vera,
Viola, Wendy, Yara, Zara, Zoe""")
KINSMEN: Final = _list("""
brother, brother-in-law, cousin, dad, father, flatmate, friend, grandfather, husband, neighbour,
nephew, partner, roommate, son, uncle""")
KINSWOMEN: Final = _list("""
aunt, cousin, daughter, flatmate, friend, grandmother, mother, mum, neighbour, niece, partner,
roommate, sister, sister-in-law, wife""")

SIGNS: Final = _list("""
ALERT, ANSWER, ARRIVALS, BEWARE, BREAK, BUSY, CAUTION, CLOSED, COLD, DANGER, DEPARTURES, DISCARD,
DONE, DRAFT, EMPTY, ENTER, ERROR, EXIT, FINAL, FOUND, FRAGILE, FREE, FULL, GATE, HEAVY, HELP, HOT,
IMPORTANT, KEEP, LEFT, LOST, MENU, NEW, NEXT, NOTE, NOTICE, OFF, OPEN, OUT, PRIVATE, PULL, PUSH,
QUIET, READY, REPLY, RESERVED, RIGHT, SALE, SEND, SHOP, SLOW, SOLD, START, STOP, STORE, TASK, TODO,
URGENT, WAIT, WARNING, WELCOME, YES""")

SLOTS: Final[dict[str, tuple[str, ...]]] = {
    "name": NAMES, "city": CITIES, "job": JOBS, "food": FOODS, "drink": DRINKS, "hobby": HOBBIES,
    "pet": PETS, "petname": PET_NAMES, "relation": RELATIONS, "event": EVENTS, "object": OBJECTS,
    "place": PLACES, "colour": COLOURS, "language": LANGUAGES, "weekday": WEEKDAYS,
    "man": MEN, "woman": WOMEN, "kinsman": KINSMEN, "kinswoman": KINSWOMEN, "month": MONTHS,
    "weather": WEATHER, "feeling": FEELINGS, "adjective": ADJECTIVES, "sign": SIGNS,
}  # fmt: skip
"""What may stand in a `{slot}` of a template."""

_ONSETS: Final = _list("""
b, br, c, ch, cl, cr, d, dr, f, fl, fr, g, gl, gr, h, j, k, kl, kr, l, m, n, p, pl, pr, qu, r, s,
sh, sk, sl, sm, sn, sp, st, sw, t, th, tr, tw, v, w, wh, y, z""")
_NUCLEI: Final = _list("a, e, i, o, u, a, e, i, o, u, ai, ea, ee, ia, ie, io, oa, oo, ou")
_CODAS: Final = _list("""
b, ck, d, f, g, l, ll, m, n, nd, nk, ng, nt, p, r, rd, rk, rn, rt, s, ss, st, t, th, x""")


def made_up(rng: random.Random) -> str:
    """Return a pronounceable lower-case word of one to three syllables, such as `tranolik`."""
    count = rng.choice((1, 2, 2, 3))
    syllables = [rng.choice(_ONSETS) + rng.choice(_NUCLEI) for _ in range(count)]
    return "".join(syllables) + rng.choice(_CODAS)
