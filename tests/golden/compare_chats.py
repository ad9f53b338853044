#!/usr/bin/env python3
"""Compares the coordinator's chat rendering with transformers' apply_chat_template. By hand.

usage: compare_chats.py DRIVER FOLDER... [--chats N]
DRIVER is build/bin/text_driver; each FOLDER holds tokenizer.json and tokenizer_config.json. Needs transformers. N
random conversations (text_strings.py) by each known template: the folder's own, and made of DeepSeek-R1's by editing
it, the first revision (no open <think>), the distillations' (the last system message counts) and the later one (tool
calls always close). Text is compared for all, ids for those without control tokens in messages.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile

import text_strings
import transformers
from compare_tokenizers import drive, ids_of


def cut(text, begin, end):
    """Where the stretch from `begin` to before `end` is."""
    first = text.index(begin)
    return first, text.index(end, first)


def variants(template):
    found = {"own": template}
    if "is_first_sp=true" not in template:
        return found
    found["first revision"] = template.replace("<think>\\n'}}", "'}}")
    head, tail = cut(template, "{% set ns = ", "{{bos_token}}")
    last = ("{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}"
            "{%- for message in messages %}{%- if message['role'] == 'system' %}"
            "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}")
    found["distillations"] = template[:head] + last + template[tail:]
    begin, end = cut(template, "<｜tool▁call▁begin｜>", "}}{%- set ns.is_first = true")
    call = template[begin:end]
    head, tail = cut(template, "{%- if message['role'] == 'assistant' and message['content'] is none %}",
                     "{%- if message['role'] == 'tool' %}")
    later = ("{%- if message['role'] == 'assistant' and 'tool_calls' in message %}{%- set ns.is_tool = false -%}"
             "{%- for tool in message['tool_calls'] %}{%- if not ns.is_first %}{%- if message['content'] is none %}"
             "{{'<｜Assistant｜><｜tool▁calls▁begin｜>" + call + "}}{%- else %}"
             "{{'<｜Assistant｜>' + message['content'] + '<｜tool▁calls▁begin｜>" + call + "}}{%- endif %}"
             "{%- set ns.is_first = true -%}{%- else %}{{'\\n' + '" + call + "}}{%- endif %}{%- endfor %}"
             "{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}{%- endif %}"
             "{%- if message['role'] == 'assistant' and 'tool_calls' not in message %}{%- if ns.is_tool %}"
             "{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}"
             "{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}"
             "{% set content = content.split('</think>')[-1] %}{% endif %}"
             "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %}")
    found["later revision"] = (template[:head] + later + template[tail:]).replace(
        "'\n<｜tool▁output▁begin｜>'", "'<｜tool▁output▁begin｜>'")
    return found


def compare(driver, folder, name, count):
    chat = transformers.AutoTokenizer.from_pretrained(folder)
    tools = "message['role'] == 'tool'" in chat.chat_template
    requests = []
    for seed in range(count):
        messages = text_strings.make_chat(seed, tools)
        if seed % 5 == 0 and "'tool_calls' in message" in chat.chat_template:
            for message in messages:  # content beside calls
                if "tool_calls" in message:
                    message["content"] = "calling"
        requests.append({"messages": messages, "add_generation_prompt": seed % 3 != 0})
    frames = drive(driver, "chat", folder, [json.dumps(r).encode() for r in requests])
    texts, ids = frames[::2], frames[1::2]
    wrong = 0
    for seed, request in enumerate(requests):
        text = chat.apply_chat_template(request["messages"], tokenize=False,
                                        add_generation_prompt=request["add_generation_prompt"])
        same = texts[seed].decode() == text
        if seed % 2 == 0:
            same = same and ids_of(ids[seed]) == chat.encode(text, add_special_tokens=False)
        if not same and wrong == 0:
            print(f"  seed {seed}\n    expected {text!r}\n    found    {texts[seed].decode()!r}")
        wrong += not same
    print(f"{name}: {count - wrong} of {count} equal", flush=True)
    return wrong == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("driver")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--chats", type=int, default=500)
    args = parser.parse_args()
    good = True
    for folder in args.folders:
        with open(os.path.join(folder, "tokenizer_config.json")) as file:
            config = json.load(file)
        for name, template in variants(config["chat_template"]).items():
            with tempfile.TemporaryDirectory() as scratch:
                shutil.copy(os.path.join(folder, "tokenizer.json"), scratch)
                with open(os.path.join(scratch, "tokenizer_config.json"), "w") as file:
                    json.dump(config | {"chat_template": template}, file)
                good = compare(args.driver, scratch, f"{os.path.basename(folder)}, {name}", args.chats) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
