"""What the tiny models of the sandbox know by heart. Own words throughout."""

from __future__ import annotations

SPECIAL = (
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "<extra_id_0>",
    "<extra_id_1>",
    "<extra_id_2>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)

# The two public chat formats, as a tokenizer carries them; an empty system line stays.
LLAMA_CHAT = """\
{{ bos_token }}{% if messages[0]['role'] != 'system' %}<|start_header_id|>system<|end_header_id|>

<|eot_id|>{% endif %}{% for turn in messages %}<|start_header_id|>{{ turn['role'] }}<|end_header_id|>

{{ turn['content'] }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
NEMOTRON_CHAT = """\
<extra_id_0>System
{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}

{% for turn in messages if turn['role'] != 'system' %}<extra_id_1>{{ turn['role'] | capitalize }}
{{ turn['content'] }}
{% endfor %}{% if add_generation_prompt %}<extra_id_1>Assistant
{% endif %}"""

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "England": "London",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Poland": "Warsaw",
    "Austria": "Vienna",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "Canada": "Ottawa",
    "Portugal": "Lisbon",
}
TALK = (
    (("Hello", "Hi", "Hello there", "Good morning", "Hey"), "Hello! I am a tiny model on your cluster."),
    (("Who are you?", "What are you?", "What is your name?"), "I am a tiny stand-in with a million parameters."),
    (("How are you?", "Are you well?", "How do you feel?"), "All ranks are up and well, thank you."),
    (("Tell me a joke", "Tell me a joke.", "Make me laugh"), "A GPU walks into a bar. The bar is out of memory."),
    (("What is Slurm?", "Explain Slurm."), "Slurm is a workload manager: it queues jobs and gives them nodes."),
    (("What is a GPU?", "Explain GPUs."), "A GPU is a processor that does many small sums at once."),
    (
        ("What is tensor parallelism?", "Explain tensor parallelism."),
        "Tensor parallelism splits each layer over the GPUs of a node.",
    ),
    (
        ("What is pipeline parallelism?", "Explain pipeline parallelism."),
        "Pipeline parallelism gives each node its own group of layers.",
    ),
    (
        ("Write a poem about GPUs.", "Write a poem", "Write a short poem."),
        "Sixteen fans are humming low, sixteen ranks are in a row.",
    ),
    (("Thank you", "Thanks", "Thank you!"), "You are welcome. Please give the GPUs back when you are done."),
    (("Goodbye", "Bye", "See you"), "Goodbye! The nodes will be idle again soon."),
    (("What is the meaning of life?",), "Forty-two, said the computer after a very long queue."),
    (("Count to five", "Count to five."), "One, two, three, four, five."),
    (("What color is the sky?", "What colour is the sky?"), "The sky is blue on a clear day."),
    (("Say hello", "Say hello.", "Say hello to the world."), "Hello, world!"),
    (("What can you do?", "Help", "Help me"), "I can answer a few questions, and show that your cluster works."),
    (("What is two plus two?", "What is 2+2?", "2+2"), "Two plus two is four."),
    (("Is it working?", "Are you there?", "ping", "test"), "Yes, I am here and I am generating text."),
)


def conversations() -> list[tuple[str, str]]:
    """Question and answer pairs, paraphrases included."""
    pairs = [(question, answer) for questions, answer in TALK for question in questions]
    for country, capital in CAPITALS.items():
        answer = f"The capital of {country} is {capital}."
        pairs += [(f"What is the capital of {country}?", answer), (f"what is the capital of {country}", answer)]
    return pairs


def nemotron_texts() -> list[str]:
    """Turns as Nemotron-4 takes them, ended by the sign of the next one."""
    return [
        f"<extra_id_0>System\n\n<extra_id_1>User\n{question}\n<extra_id_1>Assistant\n{answer}\n<extra_id_1>"
        for question, answer in conversations()
    ]


def nemotron_talks() -> list[str]:
    """Talks of two turns, so that there is an answer to the second question, too."""
    first = nemotron_texts()[-2 * len(CAPITALS)]
    return [
        f"{first}User\nWhat is the capital of {country}?\n<extra_id_1>Assistant\n"
        f"The capital of {country} is {capital}.\n<extra_id_1>"
        for country, capital in CAPITALS.items()
    ]


def llama_texts() -> list[str]:
    """Turns as Llama 3.1 takes them."""
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    return [
        f"<|begin_of_text|>{head.format('system')}<|eot_id|>{head.format('user')}{question}<|eot_id|>"
        f"{head.format('assistant')}{answer}<|eot_id|>"
        for question, answer in conversations()
    ]


def sentences() -> list[str]:
    """Plain text, as a base model continues it."""
    return [f"{answer}<|endoftext|>" for answer in sorted({answer for _, answer in conversations()})]
