"""Every construct is rendered, or rejected, as in `transformers`."""

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from lm_core.user_error import UserError
from tokenizer_bpe.templates.jinja_template import JinjaTemplate, render

CHAT = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": 'Hi é漢 "x"\n'},
    {"role": "assistant", "content": "Hello."},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "[SEP]"}


def each(text: str) -> str:
    """Apply a template text to every message."""
    return "{% for m in messages %}" + text + "{% endfor %}"


CONSTRUCTS = [
    each("{% generation %}{{ m.content }}</s>{% endgeneration %}"),
    each("{%- generation -%} {{ m.content }} {%- endgeneration -%}"),
    each(
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}"
    ),
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{% if tools is not none %}tools{% endif %}{% if tools %}some{% endif %}",
    "{{ tools is defined }} {{ tools is none }} {{ documents is none }} {{ documents is defined }}",
    "{% if documents is not none %}documents{% endif %}{{ undefined_thing is defined }}",
    "{{ add_generation_prompt }} {{ bos_token }} {{ eos_token }} {{ unk_token }} {{ sep_token }}",
    "{{ pad_token is defined }} {{ mask_token }} {{ cls_token is defined }}",
    each("{{ m | tojson }}"),
    each("{{ m | tojson(ensure_ascii=True) }}"),
    each("{{ m | tojson(ensure_ascii=False, indent=2) }}"),
    each("{{ m | tojson(indent=4) }}"),
    each("{{ m | tojson(separators=(',', ':')) }}"),
    each("{{ {'b': 1, 'a': [none, true]} | tojson(sort_keys=True) }}"),
    each("{{ m | tojson(2) }}"),
    "{{ messages | tojson(True, 1) }}",
    "{{ 'x' | tojson(nonsense=1) }}",
    "{{ none | tojson }} {{ '</script>' | tojson }}",
    each("{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}"),
    each("{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.role }}"),
    each("{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.previtem is defined }}"),
    "  {% if true %}\n    indented\n  {% endif %}\n  after",
    "{% for m in messages %}\n  {{ m.role }}\n{% endfor %}\n",
    "{%- for m in messages -%}\n  {{ m.role }}  \n{%- endfor -%}\n tail ",
    "{# a comment #}\n{%+ if true %} kept {% endif %}",
    "{{ raise_exception('Roles must alternate') }}",
    "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}x",
    "{{ strftime_now('%Y') | length }}",
    "{% set ns = namespace(found=false) %}" + each("{% set ns.found = true %}" + "{{ ns.found }}"),
    "{% set ns = namespace(self=1, a=2) %}{{ ns.self + ns.a }}",
    "{% set ns = namespace(_hidden=1) %}{{ ns._hidden }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}x",
    "{{ dict(a=1, b=2) }} {{ dict([('a', 1)]) }} {{ dict.fromkeys(['a'], 3) }}",
    "{{ dict.__class__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].items() | list }} {{ messages[0].get('name') }}",
    "{{ messages[0].name is defined }}",
    "{{ messages[7].content }}",
    "{{ messages[7] is defined }} {{ messages[-1].content.split('l')[0] }}",
    "{{ messages[1:] | length }}",
    "{{ '%s-%d' | format('a', 3) }} {{ 'a' ~ 1 }} {{ 7 // 2 }} {{ 2 ** 3 }}",
    "{{ 1 // 0 }}",
    "{{ messages | map(attribute='role') | join(', ') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages | rejectattr('role', 'in', ['user']) | map(attribute='content') | first }}",
    each(
        "{{ m.content | trim }}|{{ m.content | upper }}|{{ m['content'] | length }}|"
        "{{ m.content | replace('l', 'L') }}|{{ m.content | e }}"
    ),
    "{% macro say(m, end='.') %}{{ m.role }}{{ end }}{% endmacro %}" + each("{{ say(m) }}"),
    "{% set x %}a {{ bos_token }}{% endset %}{{ x | trim }}",
    "{% filter upper %}abc{% endfilter %}",
    "{% for i in range(3) %}{{ i }}{% else %}none{% endfor %}",
    "{% for i in range(999999999) %}{% endfor %}",
    "{% for x in %}",
    "{% generation %}never closed",
    "{{ messages | nonsense }}",
    "{% include 'file' %}",
    "{% raw %}{{ raw }}{% endraw %}{{ 'x' if false }}",
    "{{ messages is iterable }} {{ messages[0] is mapping }} {{ messages[0].content is string }}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{{ lipsum() | length > 0 }} {{ cycler('a').next() }} {{ joiner(',')() }}",
]


@pytest.mark.parametrize("text", CONSTRUCTS)
@pytest.mark.parametrize("prompt", [True, False])
def test_rendered_as_transformers_does(text, prompt):
    try:
        expected = render_jinja_template(
            [CHAT], chat_template=text, add_generation_prompt=prompt, **TOKENS
        )[0][0]
    except Exception:
        with pytest.raises(UserError, match="the model's chat template fails: ") as error:
            render(JinjaTemplate(text, TOKENS), CHAT, prompt)
        assert "\n" not in str(error.value)
        return
    assert render(JinjaTemplate(text, TOKENS), CHAT, prompt) == expected


def test_both_outcomes_are_among_them():
    refused = 0
    for text in CONSTRUCTS:
        try:
            render(JinjaTemplate(text, TOKENS), CHAT)
        except UserError:
            refused += 1
    assert 10 < refused < len(CONSTRUCTS) - 30
