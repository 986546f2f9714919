"""Stop words: frequent words without a topic, which the models do not read.

Without them, two texts are similar if they share topics, not grammar. An untrained model has no other way to tell
these apart. The lists are short, so that no word of a topic is lost: articles, pronouns, prepositions, conjunctions,
auxiliary verbs and a few adverbs of eight languages, and the kana that Japanese grammar uses most.
"""

from typing import Final

import numpy as np
from jaxtyping import Bool, UInt32

from thunder_ingest.events.text import token_hashes

_WORDS: Final = (
    # English; contractions are two tokens each
    "a about after again all also am an and any anyone anything are as at away back be because been before being "
    "both but by can could did do does doing done down each even ever every few first for from get gets go goes "
    "going got had has have having he her here hers him his how i if in into is it its just know last less let "
    "like ll m many may me might mine more most much must my myself never next no nor not nothing now of off on "
    "once one only or other our ours out over own part rather re really s same say says see she should since so "
    "some something still such sure t than thank thanks that the their theirs them then there these they thing "
    "things think this those though through time to today together too tried try under until up upon us ve very "
    "wait want was way we well went were what when where whether which while who whom whose why will with without "
    "would year years yes yet you your yours",
    # Spanish
    "a al algo algunas algunos ante antes aquí así aunque bajo bien cada casi como con contra cual cuando cómo de "
    "del desde después donde dos día dónde el ella ellas ellos en entre era eran eres es esa esas ese eso esos "
    "esta estaba estado estamos estar estas este esto estos está están estoy fue fueron gracias ha hace hacia han "
    "has hasta hay he hoy la las le les lo los luego más me mejor menos mi mis mucho muchos muy más nada ni no "
    "nos nosotros nuestra nuestro o os otra otro otros para pero poco por porque puede que quien qué se sea ser "
    "será si sido siempre sin sobre solo somos son soy su sus sí también tan tanto te tener tengo ti tiene tienen "
    "toda todas todo todos tu tus tú un una uno unos usted vale y ya yo",
    # German
    "aber alle allem allen aller alles als also am an auch auf aus bei beim bin bis bist da damit dann das dass "
    "dein deine dem den denn der des dich die dies diese diesem diesen dieser dieses dir doch dort du durch ein "
    "eine einem einen einer eines er es etwas euch für gegen gibt habe haben hat hatte heute hier ich ihm ihn "
    "ihnen ihr ihre im in ist ja jede jeder jedes jetzt kann kein keine können machen man mehr mein meine mich "
    "mir mit muss nach nicht nichts noch nun nur ob oder ohne schon sehr sein seine seit sich sie sind so soll "
    "sondern über um und uns unser unter viel vom von vor war waren warum was weil wenn wer werden wie wieder "
    "will wir wird wo zu zum zur zwischen",
    # French
    "ai alors après as au aucun aujourd aussi autre aux avant avec avoir bien c ce cela ces cet cette chez comme "
    "d dans de depuis des deux donc dont du elle elles en encore entre es est et eu fait hui il ils j je l la le "
    "les leur leurs lui ma mais me mes moi moins mon même n ne ni non nos notre nous on ont ou où par pas peu "
    "peut plus pour pourquoi qu quand que quel quelle qui rien s sa sans se sera ses si son sont sous suis sur t "
    "ta te tes toi ton tous tout toute très tu un une vos votre vous y à ça était être",
    # Portuguese
    "ao aos apenas as até com como cada da das de dela dele depois do dos e ela elas ele eles em entre era essa "
    "esse esta estava este está eu foi for foram há hoje isso isto já lhe mais mas me mesmo meu minha muito na "
    "nada nas nem no nos nós não o os ou para pela pelas pelo pelos por porque pra quando que quem se sem ser seu "
    "sua são só também tem tenho ter tudo um uma umas uns você vocês",
    # Italian
    "agli ai al alla alle allo anche ancora avere che chi ci come con cosa così da dagli dai dal dalla degli dei "
    "del della delle dello di dove e è ed era essere fa fino fra gli ha hai hanno ho i il in io la le lei li lo "
    "loro lui ma mi mio molto ne nei nel nella nelle noi non nostro o oggi ogni per perché però più poi può "
    "quando quanto quella quello questa questo qui quindi se sei sempre si sia siamo solo sono sta su sua suo sul "
    "sulla ti tra tu tutti tutto un una uno vi voi",
    # Dutch
    "aan al alles als altijd andere ben bij daar dan dat de der deze die dit doen door dus een en er ge geen haar "
    "had heb hebben heeft hem het hier hij hoe hun iets ik in is ja je kan komt maar me meer men met mijn moet na "
    "naar niet niets nog nu of om omdat onder ons ook op over te tegen toch toen tot u uit van veel voor want "
    "waren was wat we wel werd wie wij wil worden wordt zal ze zelf zich zij zijn zo zonder zou",
    # Turkish
    "acaba ama ben beni bir biri biz bu bunu da daha de değil diye en gibi hem hep her hiç için ile ise kadar ki "
    "kim mi mu mü mı ne neden nasıl o olan olarak oldu olduğu olur onlar sen siz ve veya ya yani çok çünkü şey şu",
    # Japanese kana, each of which is a token
    "い う え お か が き く け こ さ し す せ そ た だ ち っ つ て で と な に の は へ ま み め も や よ ら "
    "り る れ ろ わ を ん",
)
_HASHES: Final = np.unique(token_hashes(" ".join(_WORDS)))


def are_stop_words(tokens: UInt32[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """True for the tokens of stop words; of any shape."""
    place = np.searchsorted(_HASHES, tokens).clip(max=len(_HASHES) - 1)
    return np.asarray(_HASHES[place] == tokens)
