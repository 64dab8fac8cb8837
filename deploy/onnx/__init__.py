"""Exported models as ONNX: conversion, and inference by onnxruntime."""
