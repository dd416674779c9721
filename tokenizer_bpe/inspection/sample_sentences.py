"""A few sentences in several languages, and some Python: data for `tokenizer_comparison`.

The sentences are translations of each other, so that the figures can be compared.

What this leaves out: enough text for more than a rough figure.
"""

# Chinese has no spaces between words: these were added by hand, and SENTENCES is without them.
_CHINESE_WORDS = (
    "今年 河 很 早 就 结冰 了， 孩子们 踩 着 冰 去 上学。",
    "村里 没有 人 记得 那 座 古老 的 石桥 是 谁 建 的。",
    "她 花 24 欧元 买 了 三 张 票， 并 问 下 一 班 火车 什么 时候 开。",
    "好 面包 只 需要 面粉、 水、 盐 和 时间。",
    "如果 明天 下雨， 我们 就 在 家 看书、 喝 热茶。",
    "研究 人员 十 年 来 每 小时 测量 一 次 海水 的 温度。",
)

# Language code -> sentences; "py" is Python.
SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "The river froze early this year, and the children walked to school across the ice.",
        "Nobody in the village could remember who had built the old stone bridge.",
        "She paid 24 euros for three tickets and asked when the next train would leave.",
        "Good bread needs only flour, water, salt and time.",
        "If it rains tomorrow, we will read at home and drink hot tea.",
        "Researchers measured the temperature of the sea every hour for ten years.",
    ),
    "de": (
        "Der Fluss fror dieses Jahr früh zu, und die Kinder gingen über das Eis zur Schule.",
        "Niemand im Dorf konnte sich erinnern, wer die alte Steinbrücke gebaut hatte.",
        "Sie bezahlte 24 Euro für drei Fahrkarten und fragte, wann der nächste Zug abfährt.",
        "Gutes Brot braucht nur Mehl, Wasser, Salz und Zeit.",
        "Wenn es morgen regnet, lesen wir zu Hause und trinken heißen Tee.",
        "Forscher maßen zehn Jahre lang jede Stunde die Temperatur des Meeres.",
    ),
    "es": (
        "El río se heló temprano este año y los niños fueron a la escuela andando sobre el hielo.",
        "Nadie en el pueblo recordaba quién había construido el viejo puente de piedra.",
        "Pagó 24 euros por tres billetes y preguntó cuándo saldría el próximo tren.",
        "Un buen pan solo necesita harina, agua, sal y tiempo.",
        "Si mañana llueve, leeremos en casa y tomaremos té caliente.",
        "Los investigadores midieron la temperatura del mar cada hora durante diez años.",
    ),
    "ru": (
        "В этом году река замёрзла рано, и дети ходили в школу по льду.",
        "Никто в деревне не помнил, кто построил старый каменный мост.",
        "Она заплатила 24 евро за три билета и спросила, когда отправится следующий поезд.",
        "Хорошему хлебу нужны только мука, вода, соль и время.",
        "Если завтра пойдёт дождь, мы будем читать дома и пить горячий чай.",
        "Исследователи десять лет каждый час измеряли температуру моря.",
    ),
    "zh": tuple(sentence.replace(" ", "") for sentence in _CHINESE_WORDS),
    "ar": (
        "تجمد النهر مبكرا هذا العام، وسار الأطفال إلى المدرسة فوق الجليد.",
        "لم يتذكر أحد في القرية من بنى الجسر الحجري القديم.",
        "دفعت 24 يورو ثمنا لثلاث تذاكر وسألت متى سيغادر القطار التالي.",
        "لا يحتاج الخبز الجيد إلا إلى الدقيق والماء والملح والوقت.",
        "إذا أمطرت غدا، فسنقرأ في البيت ونشرب الشاي الساخن.",
        "قاس الباحثون درجة حرارة البحر كل ساعة على مدى عشر سنوات.",
    ),
    "hi": (
        "इस साल नदी जल्दी जम गई और बच्चे बर्फ़ पर चलकर स्कूल गए।",
        "गाँव में किसी को याद नहीं था कि पत्थर का पुराना पुल किसने बनाया था।",
        "उसने तीन टिकटों के लिए 24 यूरो दिए और पूछा कि अगली ट्रेन कब जाएगी।",
        "अच्छी रोटी के लिए बस आटा, पानी, नमक और समय चाहिए।",
        "अगर कल बारिश हुई, तो हम घर पर पढ़ेंगे और गरम चाय पिएँगे।",
        "शोधकर्ताओं ने दस साल तक हर घंटे समुद्र का तापमान मापा।",
    ),
    "py": (
        "def mean(values: list[float]) -> float:\n"
        '    """The arithmetic mean; 0 for no values."""\n'
        "    return sum(values) / len(values) if values else 0.0\n",
        "for number, line in enumerate(open(path), start=1):\n"
        "    if not line.strip() or line.startswith('#'):\n"
        "        continue\n"
        "    name, _, value = line.partition('=')\n"
        "    settings[name.strip()] = int(value)\n",
        "class Counter:\n"
        "    def __init__(self) -> None:\n"
        "        self.counts = {}\n\n"
        "    def add(self, word: str) -> None:\n"
        "        self.counts[word] = self.counts.get(word, 0) + 1\n",
    ),
}

# Language code -> the number of words, separated by whitespace.
NUM_WORDS = {
    code: sum(len(sentence.split()) for sentence in (_CHINESE_WORDS if code == "zh" else sentences))
    for code, sentences in SENTENCES.items()
}
