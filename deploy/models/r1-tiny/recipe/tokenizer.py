"""The tokenizer: R1's in form (byte-level BPE, its three regexes, its special tokens), few merges.

Digits are single tokens: merges are learned on text whose digits are cut out."""

import json
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import problems
from config import VOCAB
from transcript import NOTHING, NOTHING_REPLY, reasoning, reply

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
# R1's other added tokens, in its order, with R1's flags.
ADDED = (
    "<think>",
    "</think>",
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|EOT|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
)
# Rows of the embedding that stand for no token, as in R1.
UNUSED = 6
MERGES = VOCAB - UNUSED - len(ADDED) - 3 - 256

SPLITS = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)

# The revision of February 2025: the prompt ends in "<think>\n".
CHAT_TEMPLATE = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
    "{% endif %}"
    "{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, "
    "system_prompt='', is_first_sp=true) %}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}"
    "{% set ns.system_prompt = ns.system_prompt + message['content'] %}"
    "{% set ns.is_first_sp = false %}{%- else %}"
    "{% set ns.system_prompt = ns.system_prompt + '\n\n' + message['content'] %}{%- endif %}"
    "{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' and message['content'] is none %}"
    "{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}"
    "{%- if not ns.is_first %}"
    "{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + "
    "'<｜tool▁sep｜>' + tool['function']['name'] + '\n' + '```json' + '\n' + "
    "tool['function']['arguments'] + '\n' + '```' + '<｜tool▁call▁end｜>'}}"
    "{%- set ns.is_first = true -%}{%- else %}"
    "{{'\n' + '<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + "
    "tool['function']['name'] + '\n' + '```json' + '\n' + tool['function']['arguments'] + '\n' "
    "+ '```' + '<｜tool▁call▁end｜>'}}{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}{%- endif %}"
    "{%- endfor %}{%- endif %}"
    "{%- if message['role'] == 'assistant' and message['content'] is not none %}"
    "{%- set content = message['content'] -%}{%- if '</think>' in content -%}"
    "{%- set content = content.split('</think>')[-1] -%}{%- endif -%}{%- if ns.is_tool %}"
    "{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}"
    "{%- set ns.is_tool = false -%}{%- else %}"
    "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %}"
    "{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}"
    "{%- if ns.is_output_first %}"
    "{{'<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>' + message['content'] + "
    "'<｜tool▁output▁end｜>'}}{%- set ns.is_output_first = false %}{%- else %}"
    "{{'\n<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>'}}{%- endif %}"
    "{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<｜tool▁outputs▁end｜>'}}{% endif %}"
    "{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}"
    "{% endif %}"
)


def pre_tokenizer():
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)]
    )


def corpus(seed, count=20000):
    """What is asked and what is written, digits and control tokens left out."""
    rng = random.Random(seed)
    for _ in range(count):
        item = problems.conversation(rng)
        texts = [m["content"] for m in item["messages"] if m["role"] != "assistant"]
        # Reasoning is alike everywhere: a part of it is enough.
        if item["op"] is None:
            texts += [NOTHING, "\n\n" + NOTHING_REPLY]
        elif rng.random() < 0.3:
            texts += [
                reasoning(item["op"], item["a"], item["b"]),
                "\n\n" + reply(item["op"], item["a"], item["b"]),
            ]
        for text in texts:
            yield "".join("\0" if c.isdigit() else c for c in text).replace("\0", " \n \n")


def learned_merges(seed):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + 3 * MERGES,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(seed), trainer)
    merges = [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    # What the cut digits left behind.
    merges = [m for m in merges if "Ċ" not in "".join(m) or m in ((".", "Ċ"), ("Ċ", "Ċ"))]
    made, kept = set(pre_tokenizers.ByteLevel.alphabet()), []
    for left, right in merges:
        if left in made and right in made and len(kept) < MERGES:
            kept.append((left, right))
            made.add(left + right)
    return kept


def tokenizer_json(seed):
    merges = learned_merges(seed)
    special = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    vocab, added = {}, []
    for token in (BOS, EOS, PAD):
        vocab[token] = len(vocab)
        added.append(
            {"id": vocab[token], "content": token, **special, "normalized": False, "special": True}
        )
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[character] = len(vocab)
    for left, right in merges:
        vocab[left + right] = len(vocab)
    if len(vocab) != 259 + MERGES:
        raise ValueError(f"{len(merges)} merges, expected {MERGES} different ones")
    for i, token in enumerate(ADDED):
        control = token == "<|EOT|>"
        added.append(
            {
                "id": len(vocab) + i,
                "content": token,
                **special,
                "normalized": not control,
                "special": control,
            }
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.post_processor = None
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    made = json.loads(tokenizer.to_str())
    made["normalizer"] = {"type": "Sequence", "normalizers": []}
    made["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    made["added_tokens"] = added
    made["model"].update(vocab=vocab, merges=[f"{left} {right}" for left, right in merges])
    return made


def tokenizer_config():
    def token(content):
        return {
            "__type": "AddedToken",
            "content": content,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }

    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": token(BOS),
        "clean_up_tokenization_spaces": False,
        "eos_token": token(EOS),
        "legacy": True,
        "model_max_length": 16384,
        "pad_token": token(EOS),
        "sp_model_kwargs": {},
        "unk_token": None,
        "tokenizer_class": "LlamaTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }


def write(folder, seed):
    (folder / "tokenizer.json").write_text(
        json.dumps(tokenizer_json(seed), ensure_ascii=False, indent=1) + "\n"
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(tokenizer_config(), ensure_ascii=False, indent=1) + "\n"
    )


def load(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
