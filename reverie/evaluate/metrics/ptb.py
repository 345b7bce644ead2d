"""Captions to words as the COCO caption toolkit cuts them, without Java.

The toolkit (Chen et al., arXiv 1504.00325) sends captions through the Penn Treebank tokeniser of Stanford CoreNLP 3.4.1, in
lower case, and then drops punctuation. The rules here were found by asking that program what it does with words, symbols and
whole corpora, and are written anew. docs/caption_metrics.md says how far the two agree, and on what they do not.

At each place the longest of several patterns decides, the first one among equals; a pattern may look at what follows its token.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

#: The longest run of punctuation and letters that is looked at as one thing, so that time grows with the text and no faster.
REACH = 200

#: What the toolkit removes. Its list has brackets in capitals (-LRB-), which lower case never has, so they stay as -lrb-.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Abbreviations whose full stop is part of the word.
TITLES = words_of(
    """adj adm adv alex assoc asst atty ave brig capt cf cie cmdr col cpl dept det dr drs elec ens ft gen gov govs hon insp invt
    jos lieut lt maj mfg mlle mme mr mrs ms msgr mt mtg natl pfc ph pres prof pvt rep reps rev sen sens sfc sgt spc st ste supt
    treas vs wm"""
)
# The same, and a single letter behind them is a word of its own (inc.x).
FIRMS_AND_DATES = words_of(
    """al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri ga inc ind
    intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc ppte ppty pte ptes pty ptys rd
    rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo"""
)
# Words in lower case, places when they begin with a capital; and those that abbreviate only before a number.
PLACES = words_of("ark az del ill la mass miss ore pa tex wash")
BEFORE_NUMBERS = words_of("art ca fig figs no nos op p pp")
# Words that begin a sentence, so that a single letter and a full stop before them is no initial.
STARTERS = words_of(
    """A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once One Other
    Our She Since So Some Such That The Their Then There These They This We What When While Yet You"""
)
# Words that are two, and where the first one ends.
TWO_WORDS = {"cannot": 3, "gimme": 3, "gonna": 3, "gotta": 3, "lemme": 3, "wanna": 3}

# Letters of code page 1252 that some texts have in the place of control characters.
CODE_PAGE = str.maketrans("\x80\x85\x91\x92\x93\x94\x96\x97", "€…‘’“”–—")
WRITTEN = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{
        "€": "$",
        "¤": "$",
        "₠": "$",
        "£": "#",
        "¢": "cents",
        "¼": "1/4",
        "½": "1/2",
        "¾": "3/4",
        "⅓": "1/3",
        "⅔": "2/3",
    },
    **{"&amp;": "&", "&lt;": "<", "&gt;": ">", "&nbsp;": "", "&mdash;": "--", "&ndash;": "--", "&quot;": "''"},
    **{"‐": "", "‑": "", "&apos;": "'", '"': "''", "…": "...", "–": "--", "—": "--", "―": "--"},
}
QUOTES = {"‘": "`", "’": "'", "‛": "`", "“": "``", "”": "''", "«": "``", "»": "''", "‹": "`", "›": "'"}
# Symbols beyond ASCII that are tokens; all others that are no letters or digits separate words, and are gone.
SYMBOLS = (
    "\xa1-\u0387\u0589\u05be-\u0603\u0606-\u060c\u0614-\u061b\u061e-\u066a\u066d-\u07f8\u0964-\u0965\u0e3f-\u0e4f\u1fbd"
    "\u2010-\u2011\u2013-\u2023\u2026\u2030-\u203e\u203f-\u2042\u2044\u2070-\u208e\u20a0\u20a4\u20ac\u2100-\u214f\u2153-\u215e"
    "\u2190-\u2bff\u3001-\u3002\u3012\u30fb\uff01-\uffe1\uffe5-\uffe6"
)


def tokenise(captions: Sequence[str]) -> list[list[str]]:
    """Words of each caption, lower case, without punctuation.

    A caption stands for itself: no neighbour changes its words, and a line break inside it is a space. Time grows with the
    number of distinct words of plain letters, which are looked at once, and with the length of captions that have anything else.
    A few tokens hold a no-break space (``3 1/2``, telephone numbers), as in the toolkit.
    """
    known: dict[str, tuple[str, ...] | None] = {}
    return [_of_chunks(caption, known) for caption in captions]


def _of_chunks(caption: str, known: dict[str, tuple[str, ...] | None]) -> list[str]:
    tokens: list[str] = []
    for chunk in caption.split():
        if chunk not in known:
            known[chunk] = _plain(chunk)
        words = known[chunk]
        if words is None:
            return tokens_of(caption)
        tokens += words
    return tokens


# A word of plain letters with its punctuation means the same wherever it stands, but for a full stop after an abbreviation.
PLAIN = re.compile(r"([A-Za-z]+(?:-[A-Za-z]+)*)(?:(\.)|[,;!?\"]?)")


def _plain(chunk: str) -> tuple[str, ...] | None:
    """The words of a piece between spaces; None where what is around it may matter, or it is not simple."""
    found = PLAIN.fullmatch(chunk)
    if not found:
        return None
    word = found[1].lower()
    if found[2] and (len(word) == 1 or word in PLACES or word in BEFORE_NUMBERS):
        return None
    if found[2] and (word in TITLES or word in FIRMS_AND_DATES):
        return (word + ".",)
    if found[2] and "-" in word:
        return None
    if word in TWO_WORDS:
        return word[: TWO_WORDS[word]], word[TWO_WORDS[word] :]
    return (word,)


def tokens_of(caption: str) -> list[str]:
    """Words of one caption by the rules, without the short way that :func:`tokenise` has for plain words."""
    text = caption.translate(CODE_PAGE)
    lexer = _lexer(text.isascii())
    if not text.isascii():
        text = lexer.no_token.sub(" ", text)
    tokens: list[str] = []
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        reach, end, is_word = place, place + 1, False
        for rule in lexer.rules(text[place]):
            found = rule.match(text, place)
            if found and found.end() > reach:
                reach, end, is_word = found.end(), found.end(1), rule is lexer.word
        tokens += _write(text[place:end], is_word)
        place = end
    return tokens


def _write(token: str, is_word: bool) -> list[str]:
    """What becomes of a token: lower case, brackets and quotes by name, nothing for punctuation."""
    lower = token.replace("\xad", "").lower()
    if is_word and lower in TWO_WORDS:
        return [lower[: TWO_WORDS[lower]], lower[TWO_WORDS[lower] :]]
    if token in WRITTEN:
        lower = WRITTEN[token]
    elif token[0] in QUOTES and all(mark in QUOTES for mark in token):
        lower = "".join(QUOTES[mark] for mark in token)
    elif not token.strip("-"):
        lower = "-" if len(token) < 5 else token
    elif not token.strip("."):
        lower = "."
    elif len(token) > 1:
        lower = lower.replace("(", "-lrb-").replace(")", "-rrb-").replace(" ", "\xa0").replace("&amp;", "&")
        if CONTRACTION.fullmatch(lower):
            lower = lower.replace("’", "'").replace("‘", "`").replace("&apos;", "'")
    return [] if lower in PUNCTUATION or not lower else [lower]


CONTRACTION = re.compile(r"n(?:['’‘`]|&apos;)t|(?:['’]|&apos;)(?:[msd]|re|ve|ll)")


class _Lexer:
    """The patterns, for ASCII or for any text: in each, group 1 is the token and the rest is what must follow."""

    def __init__(self, letters: str, digits: str) -> None:
        given = _rules(f"[{letters}]", f"[{digits}]", f"[{letters}{digits}]")
        rules = [(kinds, re.compile(rule, re.VERBOSE)) for kinds, rule in given]
        self.word = rules[0][1]
        self.no_token = re.compile(f"[^\\s!-~{letters}{digits}{SYMBOLS}]")
        self._letter, self._digit = re.compile(f"[{letters}]"), re.compile(f"[{digits}]")
        self._by_kind = {kind: [rule for kinds, rule in rules if kind in kinds] for kind in "lds"}

    def rules(self, character: str) -> list[re.Pattern[str]]:
        """The patterns of tokens that may begin with a character."""
        kind = "l" if self._letter.match(character) else "d" if self._digit.match(character) else "s"
        return self._by_kind[kind]


@functools.cache
def _lexer(is_ascii: bool) -> _Lexer:
    if is_ascii:
        return _Lexer("A-Za-z", "0-9")
    kinds = [unicodedata.category(chr(code)) for code in range(0x10000)]
    # A soft hyphen and the marks among the modifier symbols are inside words.
    letters = [code for code, kind in enumerate(kinds) if kind[0] in "LM" or code == 0xAD or 0x2C2 <= code <= 0x2FF]
    return _Lexer(_ranges(letters), _ranges([code for code, kind in enumerate(kinds) if kind == "Nd"]))


def _ranges(codes: Sequence[int]) -> str:
    """A character class of sorted code points, as ranges."""
    ends = [code for code, after in zip(codes, [*codes[1:], -1], strict=True) if after != code + 1]
    starts = [code for code, before in zip(codes, [-1, *codes], strict=False) if before != code - 1]
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in zip(starts, ends, strict=True))


def _any(words: frozenset[str]) -> str:
    return "|".join(sorted(words, key=lambda word: (-len(word), word)))


def _rules(letter: str, digit: str, word: str) -> list[tuple[str, str]]:
    """Patterns in the order that decides among equally long ones; spaces in them do not count.

    Before each what a token of it may begin with: l a letter, d a digit, s a symbol.
    """
    quote = "(?:['’]|&apos;)"
    aux = "(?i:[msd]|re|ve|ll)"
    entity = "&[aeiouAEIOU](?:acute|grave|uml);"
    domain = r"""[^\s"<>|.!?(){},]"""
    plain_domain = r"""[^\s"`'<>|.!?(){}$\-,/0-9:;=@A-Z\[\\\]^_]"""
    address = r"""[^\s"<>|().:]"""
    path = r"""(?:/[^\s"<>|()]+[^\s"<>|.!?(){},-])?"""
    attribute = r"""[ ]+[A-Za-z][A-Za-z0-9_:.-]*(?:[ ]*=[ ]*(?:"[^"]{0,REACH}"|'[^']{0,REACH}'))?"""
    starters = _any(frozenset(form for starter in STARTERS for form in (starter, starter.upper())))
    places = _any(frozenset(form for place in PLACES for form in (place.capitalize(), place.upper())))
    rules = [
        ("ld", rf"({word}+)"),  # the first; see _Lexer.word
        # Abbreviations
        ("l", rf"([A-Za-z])\.[ \xa0]+(?:{starters})(?=\s|$)"),
        ("l", rf"((?i:{_any(FIRMS_AND_DATES)})\.)\S?"),
        ("l", rf"((?i:{_any(TITLES)})\.)"),
        ("l", r"([A-Za-z]\.)"),
        ("l", rf"({letter}(?:\.{letter}){{1,50}}\.)"),
        ("l", r"([Pp][Hh]\.[Dd]\.)\S?"),
        ("l", rf"((?:{places})\.)\S?"),
        ("l", rf"((?i:{_any(BEFORE_NUMBERS)})\.)[ \xa0]?{digit}"),
        ("ld", rf"({word}+(?:[-.]{word}+)*\.)[,;:]"),
        # Apostrophes inside and around words
        ("ld", r"([A-Za-z]+?)(?:[nN](?:['’‘`]|&apos;)[tT])"),
        ("l", r"([nN](?:['’‘`]|&apos;)[tT])"),
        ("ld", rf"({word}+)(?:{quote}{aux}(?:[^A-Za-z]|$)|’{aux})"),
        ("s", rf"({quote}{aux})(?:[^A-Za-z]|$)"),
        ("s", rf"(’{aux})"),
        ("s", rf"({quote}[nN]{quote}?)"),
        ("s", rf"({quote}(?i:em|till?|cause|[2-9]0s))"),
        ("s", rf"({quote}{digit}{{2}})(?=\s|$)"),
        ("s", r"('[tT])(?i:is|was)"),
        ("l", rf"((?i:ol|somethin|dunkin){quote})(?!{letter})"),
        ("l", rf"((?i:ev{quote}ry|li{quote}l|nat{quote}l|cap{quote}n|nor{quote}easter|e{quote}er|o{quote}o))"),
        ("l", rf"((?:[A-HJ-XZn]|[dlo]|c(?={quote}mon)|s(?={quote}mores)){quote}{letter}{{2,}}(?:-{letter}+)*)"),
        ("l", rf"([dDlLjJ]{quote})"),
        ("l", rf"([yY]{quote}){letter}"),
        ("l", rf"({letter}+[aeiouy]{quote}[aeiouA-Z]{letter}*)"),
        ("s", r"(')[A-Za-z]\S"),
        ("s", r"(''|``)"),
        ("s", r"([‘’‛“”«»‹›]{1,2})"),
        # Joined words and numbers
        ("ld", rf"({word}+(?:[-_‐‑]{word}+)+)"),
        ("ld", r"([A-Za-z0-9][A-Za-z0-9.,]{0,REACH}(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9]+))+)"),
        ("ld", r"([A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2})"),
        ("l", rf"({letter}{word}*(?:[.!?]{letter}{word}*)+)"),
        ("ds", rf"([-+]?[.:,]?{digit}+(?:[.:,]{digit}+)*)"),
        ("d", rf"((?:{digit}{{1,4}}[- \xa0])?{digit}{{1,4}}[/⁄]{digit}{{1,4}})"),
        ("d", rf"({digit}{{1,2}}[-/]{digit}{{1,2}}[-/]{digit}{{2,4}})"),
        (
            "ds",
            r"((?:\([0-9]{2,3}\)[ \xa0]?|\+{0,2}(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])[0-9]{3,4}[- \xa0]?[0-9]{3,5})",
        ),
        # The web
        ("s", r"(<[/]?[A-Za-z][A-Za-z0-9:.-]*(?:ATTRIBUTE)*[ ]*/?>|<[!?][A-Za-z-][^>\r\n]{0,REACH}>)"),
        ("s", r"(&(?:quot|apos|amp|lt|gt|nbsp|mdash|ndash);|&\#[0-9]+;)"),
        ("lds", rf"((?:{word}*(?:{entity}){word}*)+)"),
        ("l", r"""((?i:https?)://[^ \t"<>|()]+[^\s"<>|.!?(){},-])"""),
        ("l", rf"(www\.(?:{domain}{{1,REACH}}\.)+[A-Za-z]{{2,4}}{path})"),
        ("lds", rf"((?:{plain_domain}{{1,REACH}}\.)+(?:com|net|org|edu){path})"),
        (
            "lds",
            rf"(<?(?:mailto:)?[A-Za-z0-9](?:{address}|\.){{0,REACH}}@(?:{address}{{1,REACH}}\.)*{address}{{1,REACH}}>?)",
        ),
        ("s", r"(@[A-Za-z_][A-Za-z_0-9]*)"),
        ("s", rf"(\#{letter}+)"),
        (
            "ld",
            rf"((?:{word}+\.)+(?i:bat|bmp|c|class|cgi|cpp|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java|jpeg|jpg|mov|mp3|pdf"
            rf"|php|pl|png|ppt|ps|py|sql|tar|txt|wav|x|xml|zip|wmv))(?!{word})",
        ),
        # Symbols
        ("l", r"([CcFf]\#|[Cc]\+\+)"),
        ("l", r"([A-Z]+(?:(?:&|&amp;|\+)[A-Z]+)+)"),
        ("ls", r"([A-Z]*\$)"),
        ("s", rf"([<>]?[:;=][-']?[()DPdpO\\[\]|]|:3)(?!{word})"),
        ("s", r"(\^_\^|-_-|>_<)"),
        ("s", r"([?!]+|-+|\*+|_+|\#+|<<|>>|\.{3,})"),
    ]
    return [(kinds, rule.replace("ATTRIBUTE", attribute).replace("REACH", str(REACH))) for kinds, rule in rules]
