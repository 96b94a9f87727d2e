"""What pyproject.toml cannot say: conf/, at the top of the repository, is the folder mbv2kit/conf of the package."""

from setuptools import find_namespace_packages, find_packages, setup

CONF = "mbv2kit.conf"

setup(
    packages=[
        *find_packages(include=["mbv2kit*"]),
        CONF,
        *(f"{CONF}.{name}" for name in find_namespace_packages("conf")),
    ],
    package_dir={CONF: "conf"},
)
