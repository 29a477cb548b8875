/** @file Words that stand in for labels, so that only the demonstrations can tell what they mean. */

/** Short common words without much of a meaning for any task. */
export const RANDOM_WORDS: readonly string[] = (
  "apple arch arrow badge basin beach bell bench berry birch blade board boat bone book boot bottle bow bowl box branch " +
  "brass bread brick bridge broom brush bucket button cabin cable cake camel canal candle canoe cap card carpet cart " +
  "castle cedar chain chair chalk cherry circle cliff clock cloth cloud clover coat coin comb copper coral cork corn " +
  "cotton crane crow crown cup curtain daisy deck desk dial dome door dove drum duck eagle echo elm engine feather " +
  "fence fern field fig fish flag flame flask flint floor flute fog forest fork fossil fox frame frost garden gate " +
  "ginger glass globe glove goat gold goose grain grape grass gravel hammer harbor hat hawk hazel hedge helmet hill " +
  "honey hook horn horse house ice iron island ivory ivy jacket jar jewel kettle key kite knife knot ladder lake lamp " +
  "lantern leaf lemon lily lime linen lion lock lotus magnet maple marble market mask meadow melon mill mint mirror " +
  "moon moss motor mountain mouse needle nest net oak oar ocean olive onion orange orchid otter oven owl paint palm " +
  "paper path pear pearl pebble pen pepper piano pillow pine pipe planet plate plum pocket pond poppy prism quilt " +
  "rabbit radio raft rail rain raven reed ribbon rice ring river road robin rock roof rope rose saddle salt sand satin " +
  "scale scarf seed shell ship shoe silk silver sky slate sleeve snow soap spade spoon spring square star steam steel " +
  "stone storm stove straw string sugar sun swan table tent thread tiger tile timber tin torch tower trail train tree " +
  "trunk tulip tunnel turtle valley vase velvet vine violet wagon wall wave wheat wheel willow window wing wolf wood wool"
).split(" ");
