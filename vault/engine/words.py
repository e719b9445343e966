"""2,048 short English words of our own choosing, in order, for phrases: 11 bits each. Control plane; pure."""

from __future__ import annotations

from typing import Final

WORDS: Final = tuple(
    """
abacus able absorb academy accent account achieve acid acorn acre across action active actor adapt address
admire admit adobe adult advance adverb advice aerial aerobic affair afford agenda agent agile agree airport
alarm album alert algae alley allow almanac almond alone alpha alpine alter amazing amber amount ample
anchor ancient angle animal ankle annual answer antenna anthem antler apple apricot april apron arch arctic
area arena argue arise armada armor aroma around arrange arrive arrow article artist aspect aspen asset
assist atlas atom attend attic auburn audio august aunt author autumn avenue aviary avoid awake award aware
away awning axis axle baby back bacon badge bagel bake balance balcony ball ballad balloon bamboo banana
band bandana banjo bank banner barista bark barley barn barrel base basic basil basin basket bass bassoon
batch bath baton battery bazaar beach beacon bead beak beam bean bear beat beauty beaver become bedrock beef
beet before begin behave behind beige being belief bell belong below belt bench bend beret best better bevel
beyond bias bicycle bike bill bind birch bird biscuit bishop bison bite black blade blank blast blaze blend
bless blimp blink block blond bloom blossom blouse blue bluff blunt blur boast boat bobcat body boil bold
bolt bone bonnet bonus book boost boot border borrow boss bottle bottom boulder bounce bound bowl bracket
brain bramble branch brand brass brave bread breath breeze brewery brick bridge brief bright bring brioche
brisk broad bronze brook broom brother brown brush bubble bucket buckle budget buffalo build bulb bulk bull
bumper bunch bundle bunny buoy burger burst bush busy butler butter button buyer buzz cabbage cabin cable
cactus cafe cage cake calf call calm camel camera camp canal candle candy canoe canvas canyon cape capital
captain caramel caravan carbon card cargo carol carpet carrot carry cart carve case cash cashew casino
castle casual catalog catch cattle cause cave cavern cedar ceiling celery cell cello cement census centaur
center century ceramic certain chain chair chalk champ chance change channel chapel chapter charge chariot
charm chart chase check cheek cheer cheese chef cherry chess chest chew chicken chief child chill chimney
chin chip chisel choice choir choose chord chorus cider cinema circle circus citizen citrus city civic civil
claim clam clap clarity class claw clay clean clear clerk clever click client cliff climate climb clinic
clip cloak clock close cloth cloud clover clown club clue coach coal coast coat cobalt cobbler cobra cockpit
cocoa coconut code coffee coil coin cold collar collect colony color colt column comb comedy comet comfort
comic common compass compose concert condor cone confirm connect consul contest cook cookie cool copper copy
coral cord core cork corn correct cosmic cost costume cotton couch count couple courage court cousin cove
cowboy coyote crab craft crane crater crayon cream create credit creek crest crew crimson crisp critic crop
crow cruise crumb crunch crust crystal cube cuckoo culture cupcake curb cure curious curl current curry
curve custom cycle cyclone cymbal daily dairy daisy damp dance danger dapper dare dark dart dash data date
dawn deal debate debut decade decent decide deck deed deep define degree delay delight deliver delta demand
denim denmark dense depart depend deposit depth deputy derby design desk detail detect device diagram dial
dialect diamond diary dice diet differ digit dinner diploma direct dish disk display distant ditch dive
divide dock doctor doll dollar dolphin domain dome donkey donor door double dough dove down dozen draft
dragon drama draw dream dress drift drill drink drive drizzle drop drum duck duet dune during dusk dust duty
each eager eagle early earn earth easel east easy echo eclipse edge edit effort eight elbow elder elect
element embark ember emblem empire employ empty enable enamel energy engine enjoy enough enrich enter entire
entry envoy equal equip erase essay estate eternal even event exact example excel except excite exhibit
exist exit exotic expand expect expert explain express extra fabric face fact fade fairy faith falcon fall
fame family fancy farm fashion fast father faucet favor feast feather feature felt fence fern ferry festive
fetch fiber fiddle field figure file fill film filter final finch find fine finger finish fire firm first
fish five flag flame flank flash flask flat flavor flax fleet flex flight flint float flock flood floor flow
fluent fluid flute foam focus foil fold folk follow font food foot forest forge fork form fort forum fossil
found four frame free freezer fresh friend frog front frost fruit fuel full funny future gadget gain galaxy
gallery gallon game garage garden garlic garment gate gather gear gecko genius gentle geyser giant gift
ginger giraffe give glad glass glaze gleam glide globe glory glove glow glue gnome goal goat gold golf
gondola good goose gospel govern gown grab grace grade grain grand granite grape graph grass gravel gravity
gravy green greet grid grill grin grip grocery groom ground group grove grow guard guide guild guitar gulf
gull gust gypsum habit hair half halo hammer hammock hamster hand happy harbor hard harmony harp harvest
hatch have hawk hazel head health heart heat heavy hedge height helium hello helmet help herald herb hero
hidden high hike hill hint history hive hobby hockey hold holiday hollow holly home honest honey hood hoof
hook hope horizon horn horse host hotel house huge human humble humor hundred hurdle hurry husky hybrid hymn
icon idea ideal igloo image impact import improve inch include income indeed index indigo indoor infant
inform inlet inner input inquire insect inside insight inspect install intend into invent invest invite iris
iron island issue item ivory jacket jade jaguar january jasmine jazz jeans jelly jersey jewel jigsaw jockey
join joint joke jolly journal judge juice jumbo jump june jungle junior juniper jury kayak keen keep kelp
kennel kernel ketchup kettle kick kind king kingdom kiosk kitchen kite kitten kiwi knee knit knob koala
label labor lace ladder lagoon lake lamb lamp lance land lane lantern laptop large lark laser last latch
late latin laugh launch lava lawn lawyer layer lead leaf league lean learn leather lecture ledge left legend
lemon lend length lens lesson letter lettuce level lever liberty library life lift light like lilac lily
limb lime limit linden line link lion liquid list liter little live lizard llama load loaf loan lobby
lobster local locate lock lodge loft logic long look loop lotus loud lounge love loyal lucky lumber lunar
lunch lung lupine luxury lyric machine magic magnet major maker mallet mammoth manager mango manner manor
maple marble march margin marina mark maroon marsh mascot mason mast match math matter mayor maze meadow
meal mean measure media medium mellow melody melon member memory mentor menu mercury merge merit merry mesh
message meteor meter method metro middle might mild mile milk mill mind mineral mingle mint minute mirror
mist mitten mobile model modern modest modify module moment monday monkey month mood moon moose moral
morning mosaic moss mother motion motor mount mouse mouth move movie much muffin mule museum music must
mustard mutual myself mystery myth name napkin narrow nation native nature navy near neat neck need neon
nephew nerve nest neutral never news next nice nickel nimble nine noble noise none noodle noon normal north
nose note notice notion novel nuance number nurse nutmeg nylon oasis object oboe observe obtain ocean
october octopus offer office often olive omelet onion online only onyx opal open opera opinion option orange
orbit orchard orchid order organ orient origin osprey ostrich otter ounce outdoor outer outfit output
outside oval oven over owner oxygen oyster pace pack paddle page paint palace palm panda panel papaya paper
parade parcel park parrot parsley part pass passage pasta pastel pastry pasture patch path patient patio
patrol pause pave peach peacock peak peanut pearl pebble pedal pelican pencil penguin people pepper perfect
perfume perhaps period permit person petal phase phone photo phrase piano pick picnic picture pier pigeon
pile pilgrim pillar pillow pilot pine pink pioneer pipe piston pitch pivot pizza place plan plank plant
plate play plaza please pleat plenty plot plow plug plum plus pocket poem poet point polar pole policy
polish polite pollen polo pond pony pool poplar popular porch port portion post potato pottery pouch powder
power prairie praise prefer prepare present press pretty pretzel price pride primary prince print prism
private prize problem process produce program project promise proof proper proud public pudding puddle
puffin pull pulp pulse puma pump punch pupil puppet puppy pure purple purpose purse push puzzle pyramid
quail quality quarry quart queen quest quick quill quilt quince quit quiz quote rabbit raccoon race rack
radar radio radish raft rail rainbow raise rally ramp ranch random range rank rapid rare raspy rate rather
raven ravine reach react read real reason recall receive recent recipe record reef reflect reform region
regular relax relay release relief rely remain remark remind remote remove render renew rent repair repeat
replay reply report rescue resist resort rest result retire return reveal review reward rhyme rhythm ribbon
rice rich ride ridge rigid rinse ripe ripple rise ritual river roast robe robin robot robust rock rodeo role
roll roof rookie room rope rose rotate round rover royal rubber ruby rudder rule rumor runway rural rush
rust sack saddle safari safe sage sailor salad salmon salon salt salute same sample sand sardine satchel
satin sauna save savory scale scarf scenic scent school science scoop scope score scout screen screw script
scroll seal search season seat second secret section secure seed seek segment select self seller senate send
senior sense sequel serene series serious serve session settle seven shade shadow shaft shake shallow shape
share sharp shawl sheep sheet shelf shell sheriff shield shift shine ship shirt shoe shop short shovel show
shrimp shrub shuttle sibling side sierra sign silence silk silly silver similar simple since sing sink siren
sister size skate sketch skill skin skip skirt slate sleek sleep sleeve slice slide slim slipper slogan
slope slot slow small smart smile smoke smooth snack snail snake snap sneaker snow soap soar social sock
soda sofa soft soil solar soldier solid solo solve sonar song sonnet soon sort sound soup south space spark
speak special speech speed spell spend sphere spice spider spike spin spinach spiral spirit splash split
sponge spoon sport spot spray spread spring spruce square squash squid stable stack stadium staff stage
stamp stand star start state statue stay steady steam steep stem step stereo stew stick still stir stitch
stock stone stool stop storage store stork storm story stove strap straw stream street stride string stripe
strong studio study stuff style sublime suburb subway sudden sugar suggest suit summer summit sunday sunny
sunset super supper supply support surf surface surge survey sushi swallow swamp swan sweater swift swim
swing switch symbol syrup system table tackle tailor take talent talk tall tango tank tape target tart task
taste tavern taxi teach team teapot tell temple tennis tent term test text thank theater theme theory thick
thing think third thirty thorn thread three thrift throw thumb ticket tidy tiger tile timber time tinsel
tiny tissue title toast today toffee token tomato tone tongue tonight tool tooth topaz topic torch tornado
total totem touch tour toward towel tower town track trade trail train travel tray treat tree trek trend
trial tribe trick trim trip triumph trolley trophy tropic trout truck true trumpet trunk trust truth tube
tulip tumble tuna tundra tunnel turkey turn turnip turtle tutor tuxedo twelve twenty twig twin twist type
typical uncle under unfold unicorn union unique unit until update uphill upper upset urban urge useful user
usher usual utility vacant vacuum valid valley value valve vanilla vapor various vase vast vault vector
velvet vendor venture verb verse version vessel vest veteran viable vibrant video view villa vine vinegar
violet violin viper visa visible vision visit visual vital vivid vocal voice volcano volume vote vowel
voyage vulture wade waffle wage wagon wake walk wall walnut walrus waltz wand warm wash wasp watch water
wealth weave wedge welcome well west whale wharf wheat wheel when whisper whistle white wicker wide width
wild willow wind window wine wing winner winter wire wisdom wise wish wolf wonder wool word work world worth
wreath wren wrist yacht yard yarn year yeast yellow yield yoga yogurt young youth zebra zenith zephyr zero
zest zigzag zinc zipper zone zoom
""".split()  # noqa: SIM905 - a list of literals would be eight times as many lines
)
