"""Text that reads like an answer: sentences chosen by the prompt's hash. Data plane, pure."""

from .dice import Dice
from .tokens import CHARACTERS_PER_TOKEN, clip, count_text

SHORTEST_TOKENS = 20
LONGEST_TOKENS = 60

_SENTENCES = (
    "The short answer is yes, provided that the inputs are checked first.",
    "A careful reading suggests three separate questions hiding in one.",
    "Start with the smallest case, then let the pattern carry you upward.",
    "Most of the cost lies in moving data, not in computing with it.",
    "History offers a useful comparison, although it never repeats exactly.",
    "Two of the assumptions deserve a second look before anything is built.",
    "In practice the simpler design wins, because people can still explain it.",
    "Measured over a week, the difference turned out to be smaller than feared.",
    "One could argue the opposite, and the evidence would not settle it.",
    "The river bends twice before it reaches the old stone bridge.",
    "Keep the first draft rough; polish belongs to the last hour.",
    "What looks like noise is often a signal with a longer period.",
    "A naïve estimate gives forty, while a careful one gives forty-two.",
    "The café on the corner closes at six, so the meeting ends early.",
    "From there the path is clear: observe → decide → act → review.",
    "Their motto, 「七転び八起き」, means to fall seven times and rise eight.",
    "Nothing in the record contradicts this, yet nothing proves it either.",
    "The second option is slower by a fifth and far easier to undo.",
    "A good test fails for one reason and says which one it was.",
    "Light from that star left before the first cities were founded.",
    "Bring bread, salt and patience; the rest can be found on the way 🙂.",
    "Several teams tried this independently and reached the same conclusion.",
    "The remaining risk is small, known, and worth writing down.",
    "Ask again when the numbers change, because the answer will change too.",
)


def prose(dice: Dice, tokens: int | None = None) -> str:
    """Whole sentences, 20 to 60 tokens by the dice; or, when `tokens` is given, a text of exactly that many."""
    wanted = dice.between(SHORTEST_TOKENS, LONGEST_TOKENS - 20) if tokens is None else tokens
    chosen: list[str] = []
    length = 0
    while length < wanted * CHARACTERS_PER_TOKEN:
        sentence = dice.pick(_SENTENCES)
        chosen.append(sentence)
        length += len(sentence) + 1
    text = " ".join(chosen)
    if tokens is None:
        return text if count_text(text) <= LONGEST_TOKENS else clip(text, LONGEST_TOKENS)
    cut = clip(text, tokens)
    return cut[:-1] + "." if cut else ""
