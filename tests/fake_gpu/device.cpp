// SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
// SPDX-License-Identifier: Apache-2.0
//
// What autograd asks of a GPU: a device guard, streams and events. Here they do nothing: tensors have no numbers.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/DeviceType.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <optional>

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

namespace {
const Device CUDA0(DeviceType::CUDA, 0);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr DeviceType static_type = DeviceType::CUDA;
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return CUDA0; }
  Device getDevice() const override { return CUDA0; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, CUDA0); }
  Stream getNewStream(Device, int = 0) const override { return Stream(Stream::DEFAULT, CUDA0); }
  Stream getDefaultStream(Device) const override { return Stream(Stream::DEFAULT, CUDA0); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, CUDA0); }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const override {}
};

struct Hooks final : at::CUDAHooksInterface {
  Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  int getNumGPUs() const override { return 1; }
  // without it attention is the flash kernel's
  long versionCuDNN() const override { return 0; }
  long versionRuntimeCuDNN() const override { return 0; }
  // without it attention is the flash kernel's
  long versionCuDNNFrontend() const override { return 0; }
};
}  // namespace

// Called once torch is imported: a CUDA build registers a guard of its own, and the last one counts.
extern "C" void register_guard() { static c10::impl::DeviceGuardImplRegistrar registered(DeviceType::CUDA, new Guard); }

namespace at {
C10_REGISTER_CLASS_WITH_PRIORITY(CUDAHooksRegistry, CUDAHooks, c10::REGISTRY_PREFERRED, ::Hooks)

// Preloaded before torch's own, which says that a CPU build has no accelerator.
namespace accelerator {
__attribute__((visibility("default"))) std::optional<c10::DeviceType> getAccelerator(bool) { return DeviceType::CUDA; }
}  // namespace accelerator
}  // namespace at
