"""What each command's help ends with: its own example."""

EXAMPLES = {
    "interlace": """\
interlace t2i "a red circle"
interlace edit output/000000.png "make the circle blue" -o edited
interlace serve""",
    "t2i": """\
interlace t2i "a red circle" "a blue star" --size 128x96 --steps 8 -o out
interlace t2i prompts.csv --model black-forest-labs/FLUX.1-dev --batch-size 8 -o out""",
    "t2v": """\
interlace t2v "a red fox in the snow" --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --seconds 3 -o films
interlace t2v films.csv --model Lightricks/LTX-Video --output-format webm -o films""",
    "t2a": "interlace t2a 'rain on a tin roof' --model stabilityai/stable-audio-open-1.0 --seconds 8 -o sounds",
    "answer": """\
interlace answer "a star" --model demo-expand -o written
interlace answer questions.jsonl --model Qwen/Qwen2.5-Omni-7B --output-format wav --voice Ethan -o spoken""",
    "edit": """\
interlace edit out/000000.png "make the circle blue" -o edited
interlace edit edits.csv --model Qwen/Qwen-Image-Edit-2511 -o edited""",
    "serve": """\
interlace serve --port 8000
curl localhost:8000/v1/images/generations -H 'content-type: application/json' -d '{"prompt": "a red circle"}'""",
    "info": "interlace info --model demo --height 128",
    "bench": "interlace bench throughput --workload mixed --num-requests 16",
    "config": "interlace config --dump",
    "completion": "interlace completion bash >> ~/.bashrc",
}
