from setuptools import setup

setup(
    cffi_modules=["csrc/build.py:ffi"],
    # One wheel for every Python from 3.11 on; csrc/build.py marks the module likewise.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
