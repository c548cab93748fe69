/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* xsimd asks the kernel of an aarch64 machine for SVE; neon.cpp only looks like such a machine. */
#define HWCAP_SVE 0
