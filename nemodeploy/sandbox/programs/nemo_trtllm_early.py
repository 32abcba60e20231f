"""The same as nemo_trtllm.py with the early-access container's tensor and its option for a second port.

Source: NVIDIA/NeMo at 00b3d4a7, scripts/deploy/deploy_triton.py and nemo/export/tensorrt_llm.py.
"""

from nemo_trtllm import main

if __name__ == "__main__":
    main("max_output_token", ("--service_port",))
