// The published chat templates, as they stand in tokenizer_config.json.
#pragma once

#include <string>

#include "absl/strings/str_replace.h"

namespace whalepod {

constexpr char kChatHead[] =
    R"jinja({% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %})jinja";
constexpr char kChatSystemJoined[] =
    R"jinja({% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true) %})jinja"
    R"jinja({%- for message in messages %})jinja"
    R"jinja({%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\n\n' + message['content'] %}{%- endif %}{%- endif %})jinja"
    R"jinja({%- endfor %})jinja";
constexpr char kChatSystemLast[] =
    R"jinja({% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %})jinja"
    R"jinja({%- for message in messages %})jinja"
    R"jinja({%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %})jinja"
    R"jinja({%- endfor %})jinja";
constexpr char kChatUser[] =
    R"jinja({{bos_token}}{{ns.system_prompt}})jinja"
    R"jinja({%- for message in messages %})jinja"
    R"jinja({%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %})jinja";
constexpr char kChatAssistant[] =
    R"jinja({%- if message['role'] == 'assistant' and message['content'] is none %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}{%- if not ns.is_first %}{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\n' + '```json' + '\n' + tool['function']['arguments'] + '\n' + '```' + '<｜tool▁call▁end｜>'}}{%- set ns.is_first = true -%}{%- else %}{{'\n' + '<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\n' + '```json' + '\n' + tool['function']['arguments'] + '\n' + '```' + '<｜tool▁call▁end｜>'}}{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}{%- endif %})jinja"
    R"jinja({%- endfor %}{%- endif %})jinja"
    R"jinja({%- if message['role'] == 'assistant' and message['content'] is not none %}{%- set content = message['content'] -%}{%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1] -%}{%- endif -%})jinja"
    R"jinja({%- if ns.is_tool %}{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}{%- else %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %})jinja";
constexpr char kChatAssistantLater[] =
    R"jinja({%- if message['role'] == 'assistant' and 'tool_calls' in message %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls'] %}{%- if not ns.is_first %})jinja"
    R"jinja({%- if message['content'] is none %}{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\n' + '```json' + '\n' + tool['function']['arguments'] + '\n' + '```' + '<｜tool▁call▁end｜>'}}{%- else %}{{'<｜Assistant｜>' + message['content'] + '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\n' + '```json' + '\n' + tool['function']['arguments'] + '\n' + '```' + '<｜tool▁call▁end｜>'}}{%- endif %}{%- set ns.is_first = true -%}{%- else %}{{'\n' + '<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\n' + '```json' + '\n' + tool['function']['arguments'] + '\n' + '```' + '<｜tool▁call▁end｜>'}}{%- endif %})jinja"
    R"jinja({%- endfor %}{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}{%- endif %})jinja"
    R"jinja({%- if message['role'] == 'assistant' and 'tool_calls' not in message %})jinja"
    R"jinja({%- if ns.is_tool %}{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %})jinja";
constexpr char kChatTool[] =
    R"jinja({%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>'}}{%- set ns.is_output_first = false %}{%- else %}{{'\n<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>'}}{%- endif %}{%- endif %})jinja"
    R"jinja({%- endfor -%})jinja"
    R"jinja({% if ns.is_tool %}{{'<｜tool▁outputs▁end｜>'}}{% endif %})jinja";
constexpr char kChatPrompt[] =
    R"jinja({% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\n'}}{% endif %})jinja";

// Of deepseek-ai/DeepSeek-R1: the first revision, or the second, which opens "<think>".
inline std::string R1Template(bool opens_reasoning) {
  const std::string source = std::string(kChatHead) + kChatSystemJoined + kChatUser +
                             kChatAssistant + kChatTool + kChatPrompt;
  return opens_reasoning ? source : absl::StrReplaceAll(source, {{"<think>\\n'}}", "'}}"}});
}

// Of the distillations.
inline std::string DistillTemplate() {
  return std::string(kChatHead) + kChatSystemLast + kChatUser + kChatAssistant + kChatTool +
         kChatPrompt;
}

// With tool calls that close: later revisions of DeepSeek-R1.
inline std::string LaterTemplate() {
  return std::string(kChatHead) + kChatSystemJoined + kChatUser + kChatAssistantLater +
         absl::StrReplaceAll(kChatTool, {{"'\\n<", "'<"}}) + kChatPrompt;
}

}  // namespace whalepod
