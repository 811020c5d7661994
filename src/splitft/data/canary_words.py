"""Words of canaries: common nouns, of which a canary has six at random."""

from __future__ import annotations

_WORDS = """
acorn amber anchor apple apron arrow attic autumn badge bakery balcony bamboo banjo barrel basin
basket beacon beetle bell bench berry blanket blossom boat bonnet boot bottle boulder branch bread
brick bridge broom brush bucket buckle bundle butter button cabin cable cactus camel candle canvas
canyon carpet carrot castle cattle cavern cedar ceiling cellar chalk chapel cherry chimney circle
clay cliff clock cloud clover coat cobble coffee collar comet compass copper coral corner cotton
cradle crane crater cricket crown crystal cushion dagger daisy dancer desert diamond dolphin donkey
dragon drum eagle ember engine envelope falcon feather fence fiddle finger flame flute forest
fountain fox frost garden garlic garnet ginger glacier glove goblet goose granite grape gravel
guitar hammer harbor harvest hatchet hazel helmet heron hinge honey hood horizon hornet island
ivory jacket jasmine jewel jungle kettle kitchen kite ladder lagoon lantern laurel lemon lentil
lever lily linen lion lizard lobster locket lumber magnet mango mantle maple marble meadow melon
mirror mitten monkey mountain museum mustard napkin needle nest nettle nutmeg oak oasis ocean olive
onion orbit orchard otter oven oyster paddle palace panther parrot peach pebble pencil pepper piano
pillow pine pirate planet plum pocket pond poppy potato prairie pumpkin puzzle quarry quilt rabbit
radish raven ribbon river robin rocket rope ruby saddle saffron salmon sandal sapphire scarf shadow
shovel silver sparrow spider spindle spoon squirrel stable statue stove summit sunset swan table
tailor temple thimble thunder tiger timber tomato torch tower tractor trumpet tulip tunnel turtle
umbrella valley vanilla velvet violin volcano wagon walnut walrus weaver whale willow window winter
wizard wolf yarn zebra
"""
CANARY_WORDS = tuple(_WORDS.split())
