"""The vocabulary of the generated world: 16 topics in three languages, sentence templates and first names.

Topics share no words, so a reader recognises the topic of a post at a glance.
"""

from typing import Final, NamedTuple


class Topic(NamedTuple):
    """A topic and its words for each language, in the order of `LANGUAGES`."""

    name: str
    words: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


LANGUAGES: Final = ("en", "es", "ja")
ENGLISH, SPANISH, JAPANESE = range(3)


def _topic(name: str, english: str, spanish: str, japanese: str) -> Topic:
    return Topic(name, (tuple(english.split()), tuple(spanish.split()), tuple(japanese.split())))


TOPICS: Final = (
    _topic(
        "astronomy",
        "telescope nebula galaxy orbit comet eclipse supernova quasar meteor Saturn Jupiter Mars moonrise starlight"
        " observatory spectrum redshift exoplanet asteroid lander constellation Orion Andromeda pulsar gravity cosmos"
        " aurora perihelion satellite eyepiece parallax magnitude zenith solstice crater magnetar spacecraft sunspot"
        " universe stargazing",
        "telescopio galaxia cometa nebulosa estrella órbita luna planeta cosmos astronomía",
        "望遠鏡 銀河 彗星 星雲 惑星 月食 宇宙 流星群 天文台 土星",
    ),
    _topic(
        "football",
        "penalty striker midfielder goalkeeper offside derby kickoff header dribble stoppage champions relegation"
        " transfer dugout fullback winger equaliser crossbar nutmeg hattrick referee stadium matchday linesman corner"
        " counterattack defender freekick tackle volley pitch league scoreline lineup substitute captain supporters"
        " clean-sheet semifinal trophy",
        "gol portero delantero penalti árbitro estadio liga partido fútbol fichaje",
        "得点 監督 審判 選手 試合 優勝 守備 移籍 蹴球 主将",
    ),
    _topic(
        "cooking",
        "sourdough risotto saffron garlic simmer skillet marinade caramel basil dumplings ramen umami whisk"
        " zest braise oven crumble gnocchi paprika broth shallots miso turmeric focaccia custard lasagne chili"
        " noodles vinaigrette roast dough seasoning tofu kimchi curry pancakes butter oregano stew recipe",
        "receta ajo horno cocina salsa arroz azafrán tortilla guiso sabor",
        "料理 味噌 出汁 煮物 醤油 豆腐 包丁 献立 炊飯 天ぷら",
    ),
    _topic(
        "gardening",
        "compost tomatoes seedlings pruning mulch trellis perennials greenhouse lavender dahlia hydrangea topsoil"
        " wheelbarrow aphids bulbs cuttings raised-bed courgette germination hedge ivy peonies marigold rhubarb"
        " fertiliser weeds pollinators blossom allotment trowel tulips roses cabbages sprouts vermiculite lawn"
        " propagation orchard strawberries watering",
        "jardín semillas tomates abono flores huerto macetas riego rosas raíces",
        "庭園 種まき 堆肥 紫陽花 剪定 花壇 苗木 水やり 球根 温室",
    ),
    _topic(
        "cycling",
        "derailleur peloton saddle handlebars gravel cadence sprint velodrome crankset puncture tailwind headwind"
        " breakaway domestique wattage criterium chainring panniers spokes tubeless descent hairpin bidon"
        " freewheel drivetrain commute bike-lane time-trial mudguards jersey Tourmalet Ventoux pedals brakes"
        " inner-tube cassette bikepacking audax slipstream cyclist",
        "bicicleta pedales puerto etapa ciclista maillot sillín carretera pelotón pinchazo",
        "自転車 車輪 峠道 輪行 変速機 走行 競輪 空気入れ 逃げ集団 鎖",
    ),
    _topic(
        "chess",
        "gambit endgame checkmate bishop knight rook zugzwang castling Sicilian middlegame stalemate grandmaster blitz"
        " en-passant fianchetto pawn promotion queenside kingside opening fork skewer pin tempo blunder Najdorf"
        " Caro-Kann Catalan resignation rating sacrifice initiative passed-pawn counterplay exchange repertoire"
        " simul novelty outpost chessboard",
        "ajedrez alfil torre peón jaque gambito tablero enroque maestro dama",
        "将棋 王手 定跡 名人 終盤 棋譜 歩兵 対局 飛車 詰み",
    ),
    _topic(
        "photography",
        "aperture shutter bokeh tripod darkroom lens exposure portrait viewfinder rangefinder grain histogram"
        " landscape backlight Kodachrome Leica polariser wide-angle telephoto macro negatives contact-sheet autofocus"
        " long-exposure golden-hour silhouette flash softbox contrast monochrome panorama candid megapixels film-roll"
        " depth-of-field double-exposure composition vignette prints camera",
        "cámara objetivo retrato paisaje exposición trípode contraste enfoque encuadre revelado",
        "写真 露出 三脚 現像 逆光 広角 望遠 構図 暗室 被写体",
    ),
    _topic(
        "jazz",
        "saxophone improvisation bebop swing trumpet quartet Coltrane Monk Mingus syncopation double-bass drummer solo"
        " standards vibraphone trio groove changes scat fusion Ellington blues riff ballad piano modal vinyl"
        " jam-session brushes horn-section chorus walking-bass hard-bop Parker Davis clarinet big-band tritone"
        " rehearsal bandleader",
        "saxofón trompeta concierto improvisar contrabajo cuarteto ritmo batería disco melodía",
        "即興 演奏 名盤 四重奏 太鼓 金管 旋律 和音 生演奏 譜面",
    ),
    _topic(
        "cinema",
        "director screenplay close-up matinee noir montage premiere Kurosawa Hitchcock trailer soundtrack subtitles"
        " projector documentary sequel tracking-shot cliffhanger casting western thriller festival remake"
        " cinematography villain epilogue Varda Tarkovsky flashback box-office dialogue stunt popcorn screening"
        " arthouse storyboard cameo set-design double-feature reel filmmaker",
        "película guion directora estreno rodaje escena actriz cine documental taquilla",
        "映画 監督作 脚本 字幕 予告編 名場面 撮影 上映 俳優 続編",
    ),
    _topic(
        "climbing",
        "belay carabiner bouldering chalk crux rope harness crimps summit overhang lead-climb quickdraw rappel"
        " multipitch granite slab dyno fingerboard heel-hook onsight redpoint anchor alpine crag cornice basecamp"
        " crevasse ice-axe crampons ridge traverse Yosemite Fontainebleau trad-rack jamming sandstone limestone"
        " route-setter beta mountaineer",
        "escalada cuerda cumbre arnés roca montaña grieta cordada refugio travesía",
        "登山 岩壁 山頂 縦走 命綱 氷壁 山小屋 尾根 登攀 雪渓",
    ),
    _topic(
        "coffee",
        "espresso crema pour-over arabica grinder portafilter latte barista ristretto cold-brew beans cortado"
        " aeropress moka-pot flat-white extraction Ethiopia Kenya washed-process tasting-notes kettle bloom"
        " tamper microfoam decaf cappuccino roaster robusta chemex siphon acidity caffeine filter-paper macchiato"
        " single-origin dial-in mug cupping steam-wand café",
        "espresso-doble tueste cafetera molinillo grano taza leche aroma filtro barista-local",
        "珈琲 焙煎 豆 喫茶店 抽出 苦味 香り 一杯 牛乳 水出し",
    ),
    _topic(
        "history",
        "archive medieval empire manuscript Byzantium Rome dynasty parchment revolution treaty cathedral Vikings"
        " archaeology excavation chronicle Renaissance pharaoh Silk-Road monarchy parliament plague siege crusade"
        " Ottoman hieroglyphs coins shipwreck caravan cartography monastery oral-history bronze-age antiquity census"
        " republic fortress guilds aqueduct heraldry historian",
        "historia imperio archivo batalla reino castillo siglo tratado manuscrito ruinas",
        "歴史 城跡 古文書 幕府 遺跡 戦国 王朝 文明 発掘 条約",
    ),
    _topic(
        "trains",
        "locomotive timetable sleeper-car railway platform freight signal-box Shinkansen narrow-gauge carriage"
        " terminus steam-engine conductor interchange viaduct sidings tram express electrification tunnel ballast"
        " buffet-car junction Interrail commuter-line points rolling-stock diesel pantograph funicular overnight"
        " reservation level-crossing dining-car bogie shunting monorail railcard whistle stationmaster",
        "tren estación vía andén locomotora vagón billete horario túnel ferrocarril",
        "電車 新幹線 駅弁 時刻表 線路 車両 機関車 終着駅 踏切 鉄道",
    ),
    _topic(
        "birds",
        "kestrel heron binoculars migration plumage warbler kingfisher swallow owl nest fledgling wetland puffin"
        " starling murmuration birdsong goldfinch peregrine sandpiper feeder raptor wader albatross hummingbird"
        " woodpecker nuthatch egret crane kite jay lapwing curlew skylark dawn-chorus ringing hide gannet bittern"
        " osprey birdwatching",
        "pájaro nido plumaje garza halcón búho golondrina alas migratoria prismáticos",
        "野鳥 双眼鏡 渡り鳥 翡翠 巣箱 白鷺 燕 梟 羽根 干潟",
    ),
    _topic(
        "woodworking",
        "chisel dovetail mortise tenon walnut plane lathe oak sawdust workbench clamps veneer jigsaw sandpaper joinery"
        " varnish cherrywood bandsaw mallet spokeshave maple router shellac dowel marquetry hand-saw finish mitre"
        " cabinet rocking-chair sharpening grindstone plywood bowl-turning cedar inlay rebate ash-wood beeswax timber",
        "madera roble taller cepillo sierra barniz nogal banco formón ensamble",
        "木工 鉋 鋸 檜 作業台 家具 漆 組木 研磨 木目",
    ),
    _topic(
        "programming",
        "compiler debugger refactoring recursion Rust Python database deployment latency unit-test pull-request"
        " deadlock type-checker kernel garbage-collector query cache stack-trace concurrency benchmark algorithm"
        " parser bytecode microservice race-condition terminal regex closure linter monad segfault rollback"
        " merge-conflict open-source profiler schema event-loop pointer hash-table code-review",
        "código compilador prueba servidor consulta despliegue función variable depurar algoritmo",
        "実装 関数 変数 型検査 並行処理 遅延 設計 検証 再帰 言語処理系",
    ),
)

ORIGINALS: Final = (
    (
        "{a}, {b} and {c}: notes from today",
        "The best thing about {a} is {b}. Then comes {c}",
        "Hot take: {a} matters more than {b} #{tag}",
        "A short thread on {a}, {b} and why {c} comes first",
        "Still thinking about {a} after all that {b} #{tag}",
        "{a} or {b}? I say {c}, every time",
        "Plan for the weekend: {a}, {b}, {c}, {d}",
        "Nobody told me how well {a} and {b} go together",
        "Ask me anything about {a} and {b} #{tag}",
        "Today I learned about {a}: it all starts with {b}",
        "Ten years of {a}, and only now do I understand {b}",
        "{a} season is here. {b}, {c}, {d}!",
        "Unpopular opinion: less {a}, more {b}",
        "What a day for {a}. {b} at last! #{tag}",
        "Reading up on {a} and {c}, with a little {b} on the side",
        "{d}: what {a} taught me about {b}",
    ),
    (
        "{a} y {b}: apuntes de hoy #{tag}",
        "Lo mejor de {a} es {b}. Luego, {c}",
        "¿{a} o {b}? Yo digo {c}, siempre",
        "Hoy aprendí algo sobre {a}: todo empieza con {b}",
        "Un hilo corto sobre {a}, {b} y {c}",
        "Menos {a}, más {b}",
    ),
    (
        "今日の{a}と{b}について #{tag}",
        "{a}がすごい。次は{b}、それから{c}",
        "{a}か{b}か、私は{c}が好き",
        "{a}を始めて十年、やっと{b}がわかった",
        "週末は{a}、{b}、{c}",
    ),
)
"""Templates of originals for each language; `{a}` to `{d}` are words of the topic, `{tag}` is its name."""

REPLIES: Final = (
    (
        "@{to} agreed, {a} over {b}",
        "@{to} have you tried {a} with {b}?",
        "@{to} {a} is the answer, not {b}",
        "@{to} thank you, this helped me with {a} and {b}",
        "@{to} not so sure about {a}, but {b} yes",
        "@{to} wait until you see {a}",
    ),
    ("@{to} totalmente, {a} antes que {b}", "@{to} ¿y {a}?", "@{to} gracias, me ayudó con {a} y {b}"),
    ("@{to} {a}もいいですね", "@{to} わかります、{a}より{b}", "@{to} {b}はどうですか"),
)
QUOTES: Final = (
    (
        "This. {a} and {b} in one post",
        "Worth reading for the part on {a}",
        "{a}? Really? And what about {b}",
        "More of this, please: {a}, {b}",
    ),
    ("Esto: {a} y {b}", "Vale la pena por lo de {a}", "Más {a} y más {b}, por favor"),
    ("これです。{a}と{b}", "{a}のところが面白い", "{b}についても読みたい"),
)
SPAM: Final = "Win free {a} now!!! Click the link, {b} giveaway, {c} for the first 100"
"""Template of posts that get the label spam, in all languages."""

_FIRST_NAMES = (
    "ada amir ana arjun bea ben carla chen clara dara diego elif emil esra finn gita hana hugo ines iris ivan jonas"
    " kai kofi lena leo lin luca maya mei milo nadia nils noor omar otto paula petra quinn rafa ravi rosa ruth sami"
    " sofia sven tara theo tomas uma vera wanda yara yuki zoe"
)
FIRST_NAMES: Final = tuple(_FIRST_NAMES.split())
