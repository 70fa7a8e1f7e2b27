"""Tests of the sensor's parts."""
